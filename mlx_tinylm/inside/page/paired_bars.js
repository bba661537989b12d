// Bars with a tick on the same row: a distribution beside the one that it is held against.

import { make } from "./canvas.js";
import { brief } from "./text_data.js";
import { percent } from "./numbers.js";
import { unfolding } from "./unfolding.js";

// `update({tokens, order, bars, ticks})`: order is which ids, top first; bars and ticks are probabilities by id, either may be null.
export function pairedBars({ label, barName, tickName }) {
  const body = make("tbody");
  const table = make("table", { class: "paired-bars" },
    make("caption", { class: "visually-hidden", textContent: label }),
    make("thead", {}, make("tr", {},
      make("th", { scope: "col", textContent: "next" }), make("td"),
      make("th", { scope: "col", class: "number bar-name", textContent: barName }),
      make("th", { scope: "col", class: "number tick-name", textContent: tickName }))), body);
  const { more, update } = unfolding(body, { row, fill });

  function row() {
    const parts = { glyph: make("th", { scope: "row", class: "glyph" }), fill: make("span", { class: "fill" }), tick: make("span", { class: "tick" }) };
    parts.bar = make("td", { class: "number" });
    parts.before = make("td", { class: "number muted" });
    parts.element = make("tr", {}, parts.glyph, make("td", { class: "track-cell" }, make("div", { class: "track" }, parts.fill, parts.tick)), parts.bar, parts.before);
    return parts;
  }

  function fill(parts, id, next) {
    parts.glyph.textContent = brief(next.tokens[id]);
    parts.fill.style.width = `${100 * (next.bars ? next.bars[id] : 0)}%`;
    parts.tick.hidden = !next.ticks;
    if (next.ticks) parts.tick.style.left = `${100 * next.ticks[id]}%`;
    parts.bar.textContent = next.bars ? percent(next.bars[id]) : "–";
    parts.before.textContent = next.ticks ? percent(next.ticks[id]) : "–";
  }

  return { element: make("div", { class: "paired" }, table, more), update };
}
