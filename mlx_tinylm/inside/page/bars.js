// The whole distribution of the next character: what the model gives, what the settings leave of it, what counting says.

import { make } from "./canvas.js";
import { percent } from "./numbers.js";
import { brief, spoken } from "./text_data.js";
import { FIRST, unfolding } from "./unfolding.js";

const NAMES = { never: "never", temperature: "cut", top_k: "top-k", top_p: "top-p", min_p: "min-p" };

// `update({tokens, order, before, after, cut, counter, verb})`: order is the ids, top first; the rest by id; counter may be null.
export function distributionBars({ onChoose }) {
  const body = make("tbody");
  const column = (name, text, mark) => make("th", { scope: "col", class: `number ${name}` }, make("span", { class: mark }), text);
  const counterHead = column("counter", "3-gram", "key-tick");
  const table = make("table", { class: "paired-bars bars" },
    make("caption", { class: "visually-hidden", textContent: "What comes next: what the model gives, what the settings leave, what a 3-gram counter gives" }),
    make("thead", {}, make("tr", {}, make("th", { scope: "col", textContent: "next" }), make("td"),
      column("before", "model", "key-outline"), column("after", "drawn", "key-fill"), counterHead)), body);
  const list = unfolding(body, { row, fill, filled });
  const { rows } = list;
  const element = make("div", { class: "paired" }, table, list.more);
  body.addEventListener("click", (event) => {
    const i = rows.findIndex((row) => row.element.contains(event.target));
    if (i >= 0) onChoose(list.order()[i]);
  });
  body.addEventListener("focusin", (event) => point(rows.findIndex((row) => row.button === event.target)));

  function row() {
    const parts = { button: make("button", { type: "button", class: "glyph" }), outline: make("span", { class: "outline" }), fill: make("span", { class: "fill" }), tick: make("span", { class: "tick" }) };
    for (const name of ["before", "after", "counter"]) parts[name] = make("td", { class: `number ${name}` });
    parts.element = make("tr", {}, make("th", { scope: "row" }, parts.button),
      make("td", { class: "track-cell" }, make("div", { class: "track" }, parts.fill, parts.outline, parts.tick)), parts.before, parts.after, parts.counter);
    return parts;
  }

  function fill(parts, id, next) {
    const cut = next.cut[id];
    parts.button.textContent = brief(next.tokens[id]);
    parts.button.setAttribute("aria-label", `${next.verb} ${spoken(next.tokens[id])}`);
    parts.element.classList.toggle("cut", cut !== null);
    parts.outline.style.width = `${100 * next.before[id]}%`;
    parts.fill.style.width = `${100 * next.after[id]}%`;
    parts.fill.hidden = cut !== null;
    parts.tick.hidden = parts.counter.hidden = !next.counter;
    if (next.counter) parts.tick.style.left = `${100 * next.counter[id]}%`;
    parts.before.textContent = percent(next.before[id]);
    parts.after.textContent = cut ? NAMES[cut] : percent(next.after[id]);
    parts.counter.textContent = next.counter ? percent(next.counter[id]) : "";
  }

  function filled(count) {
    if (candidate >= count) candidate = 0;
    point(candidate);
  }

  function update(next) {
    counterHead.hidden = !next.counter;
    list.update(next);
  }

  // One candidate is a tab stop; arrows move it.
  let candidate = 0;
  function point(i) {
    candidate = Math.max(i, 0);
    rows.forEach((parts, place) => {
      parts.button.tabIndex = place === candidate ? 0 : -1;
      parts.element.classList.toggle("candidate", place === candidate);
    });
  }

  function move(by) {
    const to = Math.min(Math.max(candidate + by, 0), list.order().length - 1);
    if (to >= FIRST) list.unfold();
    rows[to].button.focus();
  }

  return { element, update, move, first: () => point(0), isFocused: () => body.contains(document.activeElement), focusFirst: () => rows[0]?.button.focus(), chosen: () => list.order()[candidate] };
}
