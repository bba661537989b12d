// Bars with a tick on the same row: a distribution beside the one that it is held against.

import { make } from "./canvas.js";
import { brief } from "./text_data.js";
import { percent } from "./numbers.js";

const FIRST = 12;

// `update({tokens, order, bars, ticks})`: order is which ids, top first; bars and ticks are probabilities by id, either may be null.
export function pairedBars({ label, barName, tickName }) {
  const body = make("tbody");
  const table = make("table", { class: "paired-bars" },
    make("caption", { class: "visually-hidden", textContent: label }),
    make("thead", {}, make("tr", {},
      make("th", { scope: "col", textContent: "next" }), make("td"),
      make("th", { scope: "col", class: "number bar-name", textContent: barName }),
      make("th", { scope: "col", class: "number tick-name", textContent: tickName }))), body);
  const more = make("button", { type: "button", class: "more", "aria-expanded": "false" });
  const element = make("div", { class: "paired" }, table, more);
  let unfolded = false;
  let shown = null;
  let rows = [];
  more.addEventListener("click", () => {
    unfolded = !unfolded;
    update(shown);
  });

  function row() {
    const parts = { glyph: make("th", { scope: "row", class: "glyph" }), fill: make("span", { class: "fill" }), tick: make("span", { class: "tick" }) };
    parts.bar = make("td", { class: "number" });
    parts.before = make("td", { class: "number muted" });
    parts.element = make("tr", {}, parts.glyph, make("td", { class: "track-cell" }, make("div", { class: "track" }, parts.fill, parts.tick)), parts.bar, parts.before);
    return parts;
  }

  function update(next) {
    shown = next;
    const count = unfolded ? next.order.length : Math.min(FIRST, next.order.length);
    while (rows.length < count) {
      rows.push(row());
      body.append(rows.at(-1).element);
    }
    rows.forEach((parts, i) => {
      parts.element.hidden = i >= count;
      if (i >= count) return;
      const id = next.order[i];
      parts.glyph.textContent = brief(next.tokens[id]);
      parts.fill.style.width = `${100 * (next.bars ? next.bars[id] : 0)}%`;
      parts.tick.hidden = !next.ticks;
      if (next.ticks) parts.tick.style.left = `${100 * next.ticks[id]}%`;
      parts.bar.textContent = next.bars ? percent(next.bars[id]) : "–";
      parts.before.textContent = next.ticks ? percent(next.ticks[id]) : "–";
    });
    more.hidden = next.order.length <= FIRST;
    more.textContent = unfolded ? "fewer" : `${next.order.length - FIRST} more`;
    more.setAttribute("aria-expanded", String(unfolded));
  }
  return { element, update };
}
