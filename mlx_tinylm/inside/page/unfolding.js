// Rows of a table, the first dozen of them until the reader unfolds the rest.

import { make } from "./canvas.js";

export const FIRST = 12;

// `row()` makes {element, ...} once; `fill(row, id, next)` shows an id in it; `filled(count)` is told how many are seen.
// `update(next)` takes what `fill` needs, and next.order, the ids from the top.
export function unfolding(body, { row, fill, filled = () => {} }) {
  const more = make("button", { type: "button", class: "more", "aria-expanded": "false" });
  const rows = [];
  let unfolded = false;
  let shown = null;
  more.addEventListener("click", () => {
    unfolded = !unfolded;
    update(shown);
  });

  function update(next) {
    shown = next;
    const count = unfolded ? next.order.length : Math.min(FIRST, next.order.length);
    while (rows.length < count) {
      rows.push(row());
      body.append(rows.at(-1).element);
    }
    rows.forEach((parts, i) => {
      parts.element.hidden = i >= count;
      if (i < count) fill(parts, next.order[i], next);
    });
    more.hidden = next.order.length <= FIRST;
    more.textContent = unfolded ? "fewer" : `${next.order.length - FIRST} more`;
    more.setAttribute("aria-expanded", String(unfolded));
    filled(count);
  }

  return { more, rows, update, order: () => shown.order, unfold: () => { if (!unfolded) more.click(); } };
}
