// Attention: which past characters a head takes from, and what happens without the head.

import { button, make, picture, tools } from "../canvas.js";
import { chosenPosition, kept } from "../kept.js";
import { bitsChange, largest, percent } from "../numbers.js";
import { onScheme, scaleBar, sequential } from "../scale.js";
import { glyph, spoken } from "../text_data.js";
import { headOf, palette, rowStart, shade, TICKS, triangleImage, triangleSide, weightsOf } from "../triangle.js";
import { withoutHeads } from "../without_heads.js";
import { inUnits } from "../words.js";

export const title = "Attention";
export const promise = "where in the past it looks";
export const codeId = "attention";
export const above = "At every character each head spreads a weight of 100% over the characters so far and adds up what it finds there. Above, the past of the chosen character is coloured by its weight.";
export const below = "Weight is not importance: a head may look somewhere and bring back nothing of use. Switch it off and see what changes.";

const NAMES = { previous: "previous character", line_start: "start of line", same_before: "same character before", induction: "induction" };

export const render = kept(build);

// The colours under the prompt.
export function paint(app) {
  if (!app.data?.ids.length) return { values: [], title: "weight", ticks: TICKS };
  const at = chosenPosition(app);
  const { weights, unit } = weightsOf(app.data, app.state.head);
  return { values: Array.from(app.data.ids, (_, i) => (i <= at ? shade(weights[rowStart(at) + i] * unit) : null)), title: "weight", ticks: TICKS };
}


function build(app) {
  let data = null;
  const now = {}; // weights and unit of the chosen head, and the matrix as drawn
  const choice = make("select", { id: "head" });
  const off = button("switch this head off", () => toggle(), { "data-key": "h", "aria-pressed": "false", class: "off" });
  const all = button("all heads on", () => setOff([]), { hidden: true });
  const strongest = make("p", { class: "reading", role: "status" });
  const thumbs = make("div", { class: "thumbs", role: "group", "aria-label": "All heads, as layer.head" });
  const readout = make("p", { class: "readout" });
  const matrix = picture({
    name: "attention matrix",
    label: () => `Attention of ${headName()}: ${data.ids.length} rows, who looks, and as many columns, at whom. Row ${at()}: ${topText()}.`,
    height: (width) => Math.ceil(triangleSide(data.ids.length, sideOf(width)) / ratio()) + 22,
    maxWidth: () => 560,
    draw: drawMatrix,
    table: () => [["who looks", "first", "second", "third", "fourth", "fifth"], Array.from(data.ids.keys(), (row) => [here(row), ...strongestOf(row).map(([place, w]) => `${here(place)} ${percent(w)}`)])],
    json: () => ({ head: app.state.head ?? "mean of all heads", tokens: tokens(), weights: Array.from(data.ids.keys(), (row) => Array.from({ length: row + 1 }, (_, i) => round(weight(row, i)))) }),
    onPoint: point,
  });
  const effect = withoutHeads(app.api, { select: (position) => app.set({ position }), changed: () => markThumbs() });
  const element = make("div", { class: "view-attention" },
    make("div", { class: "controls" }, make("label", { htmlFor: "head", textContent: "Head" }), choice, off, all),
    strongest, effect.said,
    tools({ name: `attention of the chosen ${app.unit}`,
      table: () => [["position", app.unit, "weight"], Array.from({ length: at() + 1 }, (_, i) => [i, glyph(token(i)), percent(weight(at(), i))])],
      json: () => ({ position: at(), head: app.state.head ?? "mean of all heads", tokens: tokens().slice(0, at() + 1), weights: Array.from({ length: at() + 1 }, (_, i) => round(weight(at(), i))) }) }).element,
    make("section", {}, make("h3", { textContent: "All heads" }),
      make("p", { class: "note" }, make("span", { class: "wide-only", textContent: "A column a layer, the first at the left." }), make("span", { class: "narrow-only", textContent: "A row a layer, the first at the top." }),
        " In each small picture rows look and columns are looked at, all on one scale. A name stands only where a measure says so, with its score from 0 to 1."),
      make("div", { class: "scales" }, scaleBar({ title: "weight", ticks: TICKS })), thumbs),
    make("div", { class: "pair" },
      make("section", {}, make("h3", { textContent: "The matrix" }), readout, matrix.element), effect.element));

  choice.addEventListener("change", () => app.set({ head: choice.value === "" ? null : choice.value.split(".").map(Number) }));
  onScheme(() => element.isConnected && data && drawThumbs());

  const token = (i) => data.meta.vocabulary[data.ids[i]];
  const tokens = () => Array.from(data.ids, (id) => data.meta.vocabulary[id]);
  const here = (i) => `${i} ${glyph(token(i))}`;
  const at = () => chosenPosition(app);
  const weight = (row, column) => now.weights[rowStart(row) + column] * now.unit;
  const ratio = () => window.devicePixelRatio || 1;
  const sideOf = (width) => Math.round(width * ratio());
  const round = (value) => Math.round(value * 1e4) / 1e4;
  const heads = () => data.meta.model.heads;
  const layersAndHeads = () => [data.meta.model.layers, heads()];
  const strongestOf = (row, count = 5) => largest(Array.from({ length: row + 1 }, (_, i) => weight(row, i)), count).map((place) => [place, weight(row, place)]);
  const topText = () => strongestOf(at(), 3).map(([place, w]) => `${spoken(token(place))} at ${place} (${percent(w)})`).join(", ");
  const named = (layer, head) => (data.meta.heads ?? []).find((one) => one.layer === layer && one.head === head && one.name);
  const headName = () => (app.state.head ? `layer ${app.state.head[0] + 1}, head ${app.state.head[1] + 1}` : "all heads, their mean");
  const labelOf = (layer, head) => {
    const name = named(layer, head);
    return name ? `${inUnits(NAMES[name.name] ?? name.name, app.unit)} ${name.score.toFixed(2)}` : "";
  };
  const isOff = (layer, head) => effect.off.some(([l, h]) => l === layer && h === head);

  function update(next) {
    app = next;
    if (!app.data?.ids.length) return;
    if (app.data !== data) {
      data = app.data;
      renewChoice();
      drawThumbs();
    }
    effect.update(data, at());
    const { head } = app.state;
    Object.assign(now, weightsOf(data, head));
    choice.value = head ? head.join(".") : "";
    off.disabled = !head;
    off.textContent = head && isOff(...head) ? "switch this head on" : "switch this head off";
    off.setAttribute("aria-pressed", String(Boolean(head && isOff(...head))));
    all.hidden = !effect.off.length;
    const position = at();
    const from = spoken(token(position));
    strongest.textContent = `${from[0].toUpperCase()}${from.slice(1)} at position ${position} takes most from ${topText()}.`;
    markThumbs();
    say(position, null);
    matrix.redraw();
  }

  function renewChoice() {
    const [layers, count] = layersAndHeads();
    const options = [make("option", { value: "", textContent: "all heads (their mean)" })];
    for (let layer = 0; layer < layers; layer += 1) {
      for (let head = 0; head < count; head += 1) {
        const name = labelOf(layer, head);
        options.push(make("option", { value: `${layer}.${head}`, textContent: `layer ${layer + 1}, head ${head + 1}${name && `: ${name}`}` }));
      }
    }
    choice.replaceChildren(...options);
  }

  function drawThumbs() {
    const [layers, count] = layersAndHeads();
    if (thumbs.children.length !== layers * count) {
      thumbs.style.setProperty("--heads", count);
      thumbs.style.setProperty("--layers", layers);
      thumbs.replaceChildren(...Array.from({ length: layers * count }, (_, i) => {
        const place = [Math.floor(i / count), i % count];
        const thumb = make("button", { type: "button", class: "thumb" }, make("canvas"), make("span", { class: "thumb-name" }), make("span", { class: "thumb-score" }), make("span", { class: "thumb-change" }));
        thumb.addEventListener("click", () => app.set({ head: same(app.state.head, place) ? null : place }));
        return thumb;
      }));
    }
    const colours = palette(sequential);
    [...thumbs.children].forEach((thumb, i) => {
      const place = [Math.floor(i / count), i % count];
      const canvas = thumb.firstChild;
      const { image, side } = triangleImage(headOf(data.attention, count, data.ids.length, ...place), data.ids.length, sideOf(84), colours);
      canvas.width = side;
      canvas.height = side;
      canvas.getContext("2d").putImageData(image, 0, 0);
      const [name, score] = split(labelOf(...place));
      thumb.children[1].textContent = `${place[0] + 1}.${place[1] + 1}${name && ` ${name}`}`;
      thumb.children[2].textContent = score;
    });
  }

  function markThumbs() {
    [...thumbs.children].forEach((thumb, i) => {
      const place = [Math.floor(i / heads()), i % heads()];
      thumb.setAttribute("aria-pressed", String(same(app.state.head, place)));
      thumb.classList.toggle("is-off", isOff(...place));
      thumb.children[3].textContent = isOff(...place) ? "off" : effect.changes.has(place.join(".")) ? bitsChange(effect.changes.get(place.join(".")), 3) : "";
    });
  }

  function drawMatrix({ context, width, ratio, ink }) {
    const colours = palette(sequential);
    const shown = app.state.head ? now.weights : Uint8Array.from(now.weights, (value) => Math.round(255 * value));
    const drawn = triangleImage(shown, data.ids.length, width, colours);
    now.drawn = drawn;
    const small = make("canvas", { width: drawn.side, height: drawn.side });
    small.getContext("2d").putImageData(drawn.image, 0, 0);
    context.drawImage(small, 0, 0);
    const row = Math.floor(at() / drawn.share) * drawn.cell;
    context.strokeStyle = ink.chosen;
    context.lineWidth = Math.max(1, Math.round(ratio));
    context.strokeRect(0.5, row + 0.5, row + drawn.cell - 1, Math.max(drawn.cell - 1, 1));
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.font = `12px ${ink.sans}`;
    context.fillStyle = ink.muted;
    context.fillText("columns: at whom (0 at the left)", 0, drawn.side / ratio + 14);
    context.textAlign = "right";
    context.fillText("rows: who looks", drawn.side / ratio, 12);
  }

  function point(x, y, kind) {
    const { drawn } = now;
    const row = drawn && Math.floor(y / drawn.cell) * drawn.share;
    const column = drawn && Math.floor(x / drawn.cell) * drawn.share;
    const inside = row >= 0 && column >= 0 && row < data.ids.length && column <= row;
    if (kind === "click" && row >= 0 && row < data.ids.length) app.set({ position: row });
    else say(inside ? row : at(), inside ? column : null);
  }

  function say(row, column) {
    readout.textContent = column === null
      ? `Row ${row}, ${spoken(token(row))}, of ${headName()}: the chosen one.`
      : `${spoken(token(row))} at ${row} looks at ${spoken(token(column))} at ${column}: ${percent(weight(row, column))}`;
  }

  function toggle() {
    const { head } = app.state;
    if (head) setOff(isOff(...head) ? effect.off.filter((one) => !same(one, head)) : [...effect.off, head]);
  }

  function setOff(list) {
    effect.set(list);
    update(app);
  }

  return { element, update };
}

function same(one, other) {
  return Boolean(one && other && one[0] === other[0] && one[1] === other[1]);
}

function split(label) {
  const at = label.lastIndexOf(" ");
  return at < 0 ? ["", ""] : [label.slice(0, at), label.slice(at + 1)];
}
