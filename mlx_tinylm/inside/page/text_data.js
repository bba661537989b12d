// Text as data: a background for each character, never coloured letters, and a card that says what the colour means.

import { make } from "./canvas.js";
import { css, inkOn, sequential } from "./scale.js";

// The visible form of a token: white space is data here.
export function glyph(token) {
  return token.replace(/ /g, "·").replace(/\r?\n/g, "⏎").replace(/\t/g, "→") || "∅";
}

// The same where there is little room.
export function brief(token, most = 6) {
  const text = glyph(token);
  return text.length > most ? `${text.slice(0, most - 1)}…` : text;
}

// A token in a sentence: in quotation marks, white space by its name.
export function spoken(token) {
  return { " ": "space", "\n": "newline", "\t": "tab" }[token] ?? `“${glyph(token)}”`;
}

// One focusable thing for the whole text (a slider over positions): arrows move, a click chooses, the card follows pointer and focus.
// `update({tokens, values, selected, describe})`: values in the colour's domain or null for no colour; describe(i) -> rows of text.
export function textData({ label, onSelect, colour = sequential }) {
  const grid = make("div", { class: "text-data", tabIndex: 0, role: "slider", "aria-label": label, "aria-valuemin": "0", "aria-valuemax": "0", "aria-valuenow": "0", "aria-valuetext": "no text yet" });
  const card = make("div", { class: "card" });
  const element = make("div", { class: "text-data-frame" }, grid, card);
  let shown = { tokens: [], values: [], selected: 0, describe: () => [] };
  let spans = [];

  const under = (event) => spans.indexOf(event.target.closest("span"));
  grid.addEventListener("click", (event) => under(event) >= 0 && onSelect(under(event)));
  grid.addEventListener("pointermove", (event) => under(event) >= 0 && explain(under(event)));
  grid.addEventListener("pointerleave", () => explain(shown.selected));
  grid.addEventListener("keydown", (event) => {
    const last = shown.tokens.length - 1;
    const to = { ArrowLeft: shown.selected - 1, ArrowRight: shown.selected + 1, Home: 0, End: last }[event.key];
    if (to === undefined || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    event.stopPropagation();
    onSelect(Math.min(Math.max(to, 0), last));
  });

  function explain(position) {
    card.replaceChildren(...shown.describe(position).map((line) => make("div", { textContent: line })));
  }

  function update(next) {
    let same = 0; // what is unchanged stays: a text that grows is only added to
    while (same < spans.length && next.tokens[same] === shown.tokens[same]) same += 1;
    shown = { ...shown, ...next };
    if (same < spans.length) {
      for (const after = spans[same]; after.nextSibling;) after.nextSibling.remove();
      spans[same].remove();
      spans.length = same;
    }
    const text = document.createDocumentFragment();
    for (const token of shown.tokens.slice(same)) {
      const span = make("span", { textContent: glyph(token), class: /^\s+$/.test(token) ? "white" : "" });
      span.dataset.text = token;
      spans.push(span);
      text.append(span);
      if (token.endsWith("\n")) text.append(make("br"));
    }
    grid.append(text);
    spans.forEach((span, i) => {
      const value = shown.values[i];
      const blank = value === null || value === undefined || Number.isNaN(value);
      const rgb = blank ? null : colour(value);
      span.style.backgroundColor = rgb ? css(rgb) : "";
      span.style.color = rgb ? inkOn(rgb) : "";
      span.classList.toggle("chosen", i === shown.selected);
      span.classList.toggle("blank", blank);
    });
    const at = shown.selected;
    reveal(spans[at]);
    grid.setAttribute("aria-valuemax", String(Math.max(shown.tokens.length - 1, 0)));
    grid.setAttribute("aria-valuenow", String(at));
    grid.setAttribute("aria-valuetext", `position ${at}: ${shown.describe(at).join("; ")}`);
    explain(at);
  }

  // The chosen one is brought into its own box, never the page to the box.
  function reveal(span) {
    if (!span || grid.scrollHeight <= grid.clientHeight) return;
    const top = span.offsetTop - grid.offsetTop;
    if (top < grid.scrollTop || top + span.offsetHeight > grid.scrollTop + grid.clientHeight) grid.scrollTop = top - grid.clientHeight / 2;
  }

  // Copied as what it is: the space, not the dot.
  grid.addEventListener("copy", (event) => {
    const range = getSelection().getRangeAt(0);
    const text = spans.filter((span) => range.intersectsNode(span)).map((span) => span.dataset.text).join("");
    event.clipboardData.setData("text/plain", text);
    event.preventDefault();
  });
  return { element, grid, update };
}
