// The prompt: one line in a grid of characters with their ids, edited through a real text field that lies behind it.

import { button, make } from "./canvas.js";
import { bits, grouped } from "./numbers.js";
import { SURPRISE, TOP, css, inkOn, scaleBar, sequential } from "./scale.js";
import { glyph, spoken } from "./text_data.js";

// The colours of a view that has none of its own: how surprising each character was.
export function surprisePaint(app) {
  return {
    values: Array.from(app.data.surprise, (nats) => (Number.isFinite(nats) ? nats / Math.LN2 / TOP : null)),
    ...SURPRISE,
  };
}

export function promptEditor(root, app) {
  const text = make("textarea", { id: "prompt-text", rows: 1, spellcheck: false, autocomplete: "off", autocapitalize: "off", "aria-describedby": "prompt-at" });
  const cells = make("div", { class: "cells", "aria-hidden": "true" });
  const frame = make("div", { class: "grid" }, text, cells);
  const at = make("p", { id: "prompt-at" });
  const legend = make("div", { class: "legend" });
  const edit = button("edit", () => focus(), { "aria-keyshortcuts": "e" });
  root.append(make("label", { htmlFor: "prompt-text", class: "visually-hidden", textContent: "Prompt: what the model reads" }), frame,
    make("div", { class: "prompt-foot" }, at, edit, legend));
  let shown = []; // {element, glyph, number, and of the token id, text, start}: the cells
  let title = "";

  text.addEventListener("input", () => app.set({ prompt: text.value, position: before(text.selectionStart) }));
  text.addEventListener("keydown", (event) => {
    if (event.key === "Escape") document.getElementById("main").focus();
    const step = { ArrowUp: -columns(), ArrowDown: columns() }[event.key];
    if (!step || event.shiftKey) return;
    event.preventDefault();
    caret(Math.min(Math.max(app.state.position + step, 0), shown.length - 1));
  });
  document.addEventListener("selectionchange", () => {
    if (document.activeElement !== text || text.readOnly && !shown.length) return;
    mark();
    const position = before(text.selectionStart);
    if (position !== app.state.position && text.value === app.state.prompt) app.set({ position });
  });
  frame.addEventListener("pointerdown", (event) => {
    const cell = shown.findIndex((one) => one.element.contains(event.target));
    event.preventDefault();
    const position = cell < 0 ? shown.length - 1 : cell;
    app.set({ position });
    // A finger chooses; it gets the keyboard of the screen only when it asks for it.
    if (event.pointerType !== "touch" || document.activeElement === text) caret(position);
  });
  frame.addEventListener("pointermove", (event) => {
    if (!(event.buttons & 1) || document.activeElement !== text) return;
    const cell = shown.findIndex((one) => one.element.contains(event.target));
    if (cell < 0) return;
    const anchor = app.state.position;
    text.setSelectionRange(shown[Math.min(anchor, cell)].start, end(Math.max(anchor, cell)));
  });

  const end = (cell) => (shown[cell] ? shown[cell].start + shown[cell].text.length : 0);
  // The position whose character ends at, or lies before, a place in the text.
  function before(place) {
    let found = 0;
    for (const [i, one] of app.tokens(text.value).entries()) if (one.start < place) found = i;
    return found;
  }

  function caret(position) {
    text.focus({ preventScroll: true });
    text.setSelectionRange(end(position), end(position));
  }

  function columns() {
    return shown.filter((one) => one.element.offsetTop === shown[0].element.offsetTop).length || 1;
  }

  function focus() {
    caret(app.state.position);
    frame.scrollIntoView({ block: "nearest" });
  }

  function mark() {
    const [from, to] = document.activeElement === text ? [text.selectionStart, text.selectionEnd] : [0, 0];
    for (const one of shown) one.element.classList.toggle("marked", one.start >= from && one.start < to);
  }

  function update(paint) {
    if (text.value !== app.state.prompt) text.value = app.state.prompt;
    text.readOnly = Boolean(app.api.saved);
    edit.hidden = text.readOnly;
    const tokens = app.tokens();
    while (shown.length < tokens.length) {
      const one = { glyph: make("span"), number: make("small") };
      one.element = make("span", { class: "cell" }, one.glyph, one.number);
      shown.push(one);
      cells.append(one.element);
    }
    for (const one of shown.splice(tokens.length)) one.element.remove();
    let fresh = Boolean(app.data); // as far as the numbers that are here are about these characters
    tokens.forEach((token, i) => {
      const one = shown[i];
      fresh &&= app.data.ids[i] === token.id;
      const value = fresh ? paint?.values[i] : null;
      const rgb = value === null || value === undefined || Number.isNaN(value) ? null : sequential(value);
      const colour = rgb ? css(rgb) : "";
      if (one.text !== token.text || one.id !== token.id) {
        one.glyph.textContent = glyph(token.text);
        one.glyph.className = /^\s+$/.test(token.text) ? "white" : "";
        one.number.textContent = token.id ?? "?";
      }
      if (one.colour !== colour) {
        one.glyph.style.backgroundColor = colour;
        one.glyph.style.color = rgb ? inkOn(rgb) : "";
      }
      Object.assign(one, token, { colour });
      one.element.classList.toggle("chosen", i === app.state.position);
      one.element.classList.toggle("unknown", token.id === undefined);
    });
    mark();
    if (paint && paint.title !== title) {
      title = paint.title;
      legend.replaceChildren(scaleBar(paint));
    }
    const place = app.state.position;
    const here = shown[place];
    const surprise = app.data?.ids[place] === here?.id ? app.data?.surprise[place] : NaN;
    at.textContent = here ? `${spoken(here.text)}, position ${place}, id ${here.id ?? "unknown"}${Number.isFinite(surprise) ? `, surprise ${bits(surprise)}` : ""}. ${grouped(tokens.length)} of at most ${grouped(app.model.longest)} ${app.unit}s.` : "Type something for the model to read.";
    reveal(here?.element);
  }

  function reveal(cell) {
    if (!cell) return;
    const [top, bottom] = [cell.offsetTop, cell.offsetTop + cell.offsetHeight];
    if (top < frame.scrollTop) frame.scrollTop = top;
    else if (bottom > frame.scrollTop + frame.clientHeight) frame.scrollTop = bottom - frame.clientHeight + 8;
  }

  return { update, focus, caretPosition: () => (document.activeElement === text ? before(text.selectionStart) : null) };
}
