// Attention: which past characters a head takes from, and what happens without the head.

import { button, make, picture, tools } from "../canvas.js";
import { domPicture } from "../dom_picture.js";
import { kept } from "../kept.js";
import { bits, bitsChange, grouped, largest, mean, percent, softmax } from "../numbers.js";
import { pairedBars } from "../paired_bars.js";
import { difference, onScheme, scaleBar, sequential } from "../scale.js";
import { glyph, spoken, textData } from "../text_data.js";
import { headOf, meanOf, palette, rowStart, shade, TICKS, triangleImage, triangleSide } from "../triangle.js";

export const title = "Attention";
export const promise = "where in the past it looks";
export const codeId = "attention";
export const above = "At every character each head spreads a weight of 100% over the characters so far and adds up what it finds there. The past of the chosen character is coloured by its weight.";
export const below = "Weight is not importance: a head may look somewhere and bring back nothing of use. Switch it off and see what changes.";

const MOST_CHANGE = 3; // bits at which the scale of differences ends
const NAMES = { previous: "previous character", line_start: "start of line", same_before: "same character before", induction: "induction" };

export const render = kept(build);

function build(app) {
  let data = null;
  let now = {};
  const choice = make("select", { id: "head" });
  const off = button("switch this head off", () => toggle(), { "data-key": "h", "aria-pressed": "false", class: "off" });
  const all = button("all heads on", () => setOff([]), { hidden: true });
  const weights = textData({ label: "Attention of the chosen character: its past by weight", onSelect: (position) => app.set({ position }) });
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
  const effect = makeEffect();
  const element = make("div", { class: "view-attention" },
    make("div", { class: "controls" }, make("label", { htmlFor: "head", textContent: "Head" }), choice, off, all),
    weights.element, strongest, effect.said,
    make("div", { class: "scales" }, scaleBar({ title: "weight", ticks: TICKS })),
    tools({ name: "attention of the chosen character", picture: () => domPicture(weights.grid),
      table: () => [["position", "character", "weight"], Array.from({ length: at() + 1 }, (_, i) => [i, glyph(token(i)), percent(weight(at(), i))])],
      json: () => ({ position: at(), head: app.state.head ?? "mean of all heads", tokens: tokens().slice(0, at() + 1), weights: Array.from({ length: at() + 1 }, (_, i) => round(weight(at(), i))) }) }).element,
    make("section", {}, make("h3", { textContent: "All heads" }),
      make("p", { class: "note" }, make("span", { class: "wide-only", textContent: "A column a layer, the first at the left." }), make("span", { class: "narrow-only", textContent: "A row a layer, the first at the top." }),
        " In each small picture rows look and columns are looked at, all on the scale above. A name stands only where a measure says so, with its score from 0 to 1."), thumbs),
    make("div", { class: "pair" },
      make("section", {}, make("h3", { textContent: "The matrix" }), readout, matrix.element), effect.element));

  choice.addEventListener("change", () => app.set({ head: choice.value === "" ? null : choice.value.split(".").map(Number) }));
  onScheme(() => element.isConnected && data && drawThumbs());

  const token = (i) => data.meta.vocabulary[data.ids[i]];
  const tokens = () => Array.from(data.ids, (id) => data.meta.vocabulary[id]);
  const here = (i) => `${i} ${glyph(token(i))}`;
  const at = () => Math.min(app.state.position, data.ids.length - 1);
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
    return name ? `${NAMES[name.name] ?? name.name} ${name.score.toFixed(2)}` : "";
  };
  const isOff = (layer, head) => effect.off.some(([l, h]) => l === layer && h === head);

  function update(next) {
    app = next;
    if (!app.data?.ids.length) return;
    if (app.data !== data) {
      data = app.data;
      now = { all: meanOf(data.attention, data.ids.length) };
      renewChoice();
      drawThumbs();
      effect.renew();
    }
    const { head } = app.state;
    now.weights = head ? headOf(data.attention, heads(), data.ids.length, ...head) : now.all;
    now.unit = head ? 1 / 255 : 1;
    choice.value = head ? head.join(".") : "";
    off.disabled = !head;
    off.textContent = head && isOff(...head) ? "switch this head on" : "switch this head off";
    off.setAttribute("aria-pressed", String(Boolean(head && isOff(...head))));
    all.hidden = !effect.off.length;
    const position = at();
    weights.update({
      tokens: tokens(), selected: position,
      values: Array.from(data.ids, (_, i) => (i <= position ? shade(weight(position, i)) : null)),
      describe: (i) => (i > position ? [`${spoken(token(i))} at ${i}`, "the future: never looked at"] : [`${spoken(token(i))} at ${i}`, `weight ${percent(weight(position, i))}`]),
    });
    strongest.textContent = `${spoken(token(position))} at position ${position} takes most from ${topText()}.`;
    markThumbs();
    say(position, null);
    matrix.redraw();
    effect.update();
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
    effect.off = list;
    effect.renew();
    update(app);
  }

  // What is different without some heads: the loss, each character's surprise, the next character's bars.
  function makeEffect() {
    const said = make("p", { class: "reading", role: "status" });
    const text = textData({ label: "Change of each character's surprise without the heads", onSelect: (position) => app.set({ position }), colour: difference });
    const bars = pairedBars({ label: "Next character without the heads, and with them", barName: "without", tickName: "with" });
    const inTurn = button("switch off each head in turn", sweep);
    const result = make("div", { class: "effect-result" }, text.element,
      make("div", { class: "scales" }, scaleBar({ kind: "difference", title: "surprise", ticks: [[0, `−${MOST_CHANGE} bits`], [0.5, "as before"], [1, `+${MOST_CHANGE} bits`]] })),
      make("h4", { textContent: "What comes next at the chosen position" }), bars.element,
      tools({ name: "without the heads", picture: () => domPicture(result), table: () => [["position", "character", "with", "without", "change"], Array.from(data.ids.keys()).slice(1).map((i) => [i, glyph(token(i)), bits(data.surprise[i]), bits(without.surprise[i]), bitsChange(without.surprise[i] - data.surprise[i])])],
        json: () => ({ heads_off: self.off, surprise_with: [...data.surprise].map(orNull), surprise_without: [...without.surprise].map(orNull) }) }).element);
    const element = make("section", { class: "effect" }, make("h3", { textContent: "Without a head" }), make("div", { class: "controls" }, inTurn), result);
    const self = { element, said, off: [], changes: new Map(), renew, update: show };
    const answers = new Map();
    let without = null;
    let asked = null;
    let stop = new AbortController();

    function renew() {
      stop.abort();
      stop = new AbortController();
      if (asked && asked.data !== data) {
        self.changes = new Map();
        answers.clear();
      }
      asked = { data };
      without = null;
      if (self.off.length) ask(self.off, stop.signal).then((answer) => {
        without = answer;
        show();
      }, (error) => error.name === "AbortError" || fail(error));
      show();
    }

    async function ask(off, signal) {
      const key = JSON.stringify(off);
      if (!answers.has(key)) answers.set(key, await app.api.trace({ ids: [...data.ids], heads_off: off, parts: ["logits", "surprise"] }, { signal }));
      return answers.get(key);
    }

    function fail(error) {
      said.textContent = error.message;
      inTurn.disabled = false;
    }

    async function sweep() {
      const [layers, count] = layersAndHeads();
      const of = data;
      inTurn.disabled = true;
      try {
        for (let i = 0; i < layers * count && of === data; i += 1) {
          const place = [Math.floor(i / count), i % count];
          const answer = await ask([place], stop.signal);
          self.changes.set(place.join("."), mean(answer.surprise) - mean(data.surprise));
          markThumbs();
          show();
        }
        inTurn.disabled = false;
      } catch (error) {
        if (error.name === "AbortError") inTurn.disabled = false;
        else fail(error);
      }
    }

    function show() {
      result.hidden = !without;
      if (!data || said.textContent === "" || !without) said.textContent = intro();
      if (!without) return;
      const loss = [mean(data.surprise), mean(without.surprise)];
      said.textContent = `Without ${self.off.map(([l, h]) => `${l + 1}.${h + 1}`).join(", ")} the loss of this text goes from ${bits(loss[0], 3)} to ${bits(loss[1], 3)} a character: ${bitsChange(loss[1] - loss[0], 3)}. ${here()}`;
      const change = Array.from(data.ids, (_, i) => (i ? (without.surprise[i] - data.surprise[i]) / Math.LN2 / MOST_CHANGE : null));
      text.update({ tokens: tokens(), values: change, selected: at(),
        describe: (i) => [`${spoken(token(i))} at ${i}`, i ? `surprise ${bits(data.surprise[i])}, without ${bits(without.surprise[i])}` : "the first has no surprise"] });
      const size = data.meta.vocabulary.length;
      const ticks = softmax(data.logits, size, at());
      bars.update({ tokens: data.meta.vocabulary, order: largest(ticks, size), bars: softmax(without.logits, size, at()), ticks });
    }

    function here() {
      const size = data.meta.vocabulary.length;
      const [before, after] = [data, without].map(({ logits }) => softmax(logits, size, at()));
      const [best] = largest(before, 1);
      return `After ${spoken(token(at()))}, ${spoken(data.meta.vocabulary[best])} goes from ${percent(before[best])} to ${percent(after[best])}.`;
    }

    function intro() {
      const done = self.changes.size;
      if (self.off.length) return "Computing without it.";
      if (!done) return `The loss of this text is ${data ? bits(mean(data.surprise), 3) : "–"} a character. Choose a head and switch it off, or let each be switched off in turn.`;
      const total = data.meta.model.layers * heads();
      if (done < total) return `${grouped(done)} of ${grouped(total)} heads switched off in turn.`;
      const [key, most] = [...self.changes].sort((a, b) => b[1] - a[1])[0];
      const helped = [...self.changes.values()].filter((change) => change <= 0).length;
      return `Most depends on head ${key.split(".").map((n) => Number(n) + 1).join(".")}: ${bitsChange(most, 3)} a character without it. Without ${grouped(helped)} of the ${grouped(total)} the loss of this text does not rise at all.`;
    }
    return self;
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

const orNull = (value) => (Number.isFinite(value) ? value : null);
