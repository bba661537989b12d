// A picture: a canvas at device pixels with a table twin, "copy as JSON" and "save picture".

import { onScheme } from "./scale.js";

const live = new Set(); // pictures on the page, to be drawn again when the window or the colour scheme changes

function redrawAll() {
  for (const shown of live) {
    if (shown.drawn && shown.element.isConnected) shown.redraw();
  }
}

let waiting = 0;
window.addEventListener("resize", () => {
  cancelAnimationFrame(waiting);
  waiting = requestAnimationFrame(redrawAll);
});
onScheme(redrawAll);

export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "class") element.className = value;
    else if (name in element && name !== "role" && name !== "list") element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

// The page's own colours, for what is drawn on a canvas.
export function ink(element) {
  const style = getComputedStyle(element);
  const of = (name, otherwise) => style.getPropertyValue(name).trim() || otherwise;
  return {
    text: of("--ink", style.color),
    muted: of("--muted", style.color),
    ground: of("--ground", "Canvas"),
    border: of("--border", style.color),
    chosen: of("--chosen", "#1f5fbf"),
    model: of("--model", "#b85400"),
    sans: style.fontFamily,
    mono: of("--mono", "ui-monospace, monospace"),
  };
}

// `draw({context, width, height, ratio, ink})` paints on a cleared canvas of width x height device pixels; `height(width)` answers in CSS pixels.
// `label()` says in a sentence what is seen; `table()` answers [head, rows]; `json()` the numbers themselves.
export function picture({ name, label, height, draw, table, json, onPoint, maxWidth }) {
  const canvas = make("canvas", { role: "img" });
  const frame = make("div", { class: "picture-frame" }, canvas);
  const element = make("figure", { class: "picture" }, frame);
  const twin = tools({ name, table, json, picture: () => canvas });
  element.append(twin.element);
  let shape = "";
  function redraw() {
    const room = Math.floor(frame.clientWidth);
    if (!room) return;
    const width = Math.min(room, maxWidth ? maxWidth() : room);
    const tall = height(width);
    const ratio = window.devicePixelRatio || 1;
    const wanted = `${width} ${tall} ${ratio}`;
    if (wanted !== shape) {
      shape = wanted;
      canvas.width = Math.round(width * ratio);
      canvas.height = Math.round(tall * ratio);
      canvas.style.width = `${width}px`;
      canvas.style.height = `${tall}px`;
    }
    const context = canvas.getContext("2d");
    const colours = ink(canvas);
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.fillStyle = colours.ground;
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.save();
    draw({ context, width: canvas.width, height: canvas.height, ratio, ink: colours });
    context.restore();
    canvas.setAttribute("aria-label", label());
    shown.drawn = true;
    twin.refresh();
  }
  if (onPoint) {
    const at = (event) => {
      const box = canvas.getBoundingClientRect();
      return [((event.clientX - box.left) / box.width) * canvas.width, ((event.clientY - box.top) / box.height) * canvas.height];
    };
    canvas.addEventListener("pointermove", (event) => onPoint(...at(event), "move"));
    canvas.addEventListener("pointerleave", () => onPoint(NaN, NaN, "leave"));
    canvas.addEventListener("click", (event) => onPoint(...at(event), "click"));
  }
  const shown = { element, canvas, redraw, drawn: false };
  live.add(shown);
  return shown;
}

// Below every picture: the same as a table, the numbers as JSON, the picture as a file. What is not given has no button.
export function tools({ name, table, json, picture: canvas }) {
  const element = make("div", { class: "tools" });
  let refresh = () => {};
  if (table) {
    const place = make("div", { class: "twin-table", tabIndex: 0, role: "region", "aria-label": `${name}, as a table` });
    const details = make("details", { class: "twin" }, make("summary", { textContent: "as a table" }), place);
    refresh = () => details.open && place.replaceChildren(tableOf(...table()));
    details.addEventListener("toggle", refresh);
    element.append(details);
  }
  const said = make("span", { class: "said", role: "status" });
  if (json) {
    element.append(button("copy as JSON", async () => {
      await copy(JSON.stringify(json()));
      say("copied");
    }));
  }
  if (canvas) {
    element.append(button("save picture", async () => {
      const blob = await new Promise((done) => canvas().toBlob(done));
      const address = URL.createObjectURL(blob);
      make("a", { href: address, download: `${name.replace(/[^\w-]+/g, "-")}.png` }).click();
      setTimeout(() => URL.revokeObjectURL(address), 10000);
      say("saved");
    }));
  }
  function say(word) {
    said.textContent = word;
    setTimeout(() => { said.textContent = ""; }, 2000);
  }
  element.append(said);
  return { element, refresh: () => refresh() };
}

export function button(text, act, properties = {}) {
  const element = make("button", { type: "button", textContent: text, ...properties });
  element.addEventListener("click", act);
  return element;
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch { // a page from disk has no clipboard of its own
    const area = document.body.appendChild(make("textarea", { value: text, "aria-label": "copied" }));
    area.select();
    document.execCommand("copy");
    area.remove();
  }
}

export function tableOf(head, rows) {
  const cell = (value, tag, properties = {}) => {
    const number = typeof value === "number" || /^[−+-]?[\d.,\u202f]+ ?(%|bits)?$/.test(String(value));
    return make(tag, { class: number ? "number" : "", textContent: String(value), ...properties });
  };
  return make("table", {},
    make("thead", {}, make("tr", {}, ...head.map((title) => make("th", { scope: "col", textContent: title })))),
    make("tbody", {}, ...rows.map((row) => make("tr", {}, ...row.map((value, i) =>
      i ? cell(value, "td") : cell(value, "th", { scope: "row" }))))));
}

// A row-by-row image of `rows` x `columns`, `colour(row, column)` -> [r, g, b] or null for blank; drawn crisp into the box.
export function cells(context, { rows, columns, colour, x, y, width, height }) {
  const image = new ImageData(columns, rows);
  for (let row = 0, at = 0; row < rows; row += 1) {
    for (let column = 0; column < columns; column += 1, at += 4) {
      const rgb = colour(row, column);
      if (rgb) {
        image.data[at] = rgb[0];
        image.data[at + 1] = rgb[1];
        image.data[at + 2] = rgb[2];
        image.data[at + 3] = 255;
      }
    }
  }
  const small = make("canvas", { width: columns, height: rows });
  small.getContext("2d").putImageData(image, 0, 0);
  context.imageSmoothingEnabled = false;
  context.drawImage(small, x, y, width, height);
}
