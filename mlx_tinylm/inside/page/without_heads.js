// What changes when heads are switched off: the loss, each character's surprise, the next character's bars.

import { button, make, tools } from "./canvas.js";
import { domPicture } from "./dom_picture.js";
import { BIT, bits, bitsChange, largest, mean, percent, softmax } from "./numbers.js";
import { pairedBars } from "./paired_bars.js";
import { difference, scaleBar } from "./scale.js";
import { glyph, spoken, textData } from "./text_data.js";

const MOST = 3; // bits of change at which the scale ends

// `select(position)` and `changed()` are called back; `said` is the sentence of the effect, `element` its pictures, `off` the heads [[layer, head]],
// `changes` of the loss in nats by "layer.head" where each was switched off in turn.
export function withoutHeads(api, { select, changed }) {
  let data = null;
  let position = 0;
  let without = null; // logits and surprise with `off` off
  let failed = "";
  let answers = new Map();
  let stop = new AbortController();
  const said = make("p", { class: "reading", role: "status" });
  const text = textData({ label: "Change of each surprise without the heads", onSelect: select, colour: difference });
  const bars = pairedBars({ label: "What comes next without the heads, and with them", barName: "without", tickName: "with" });
  const inTurn = button("switch off each head in turn", sweep);
  const result = make("div", { class: "effect-result" }, text.element,
    make("div", { class: "scales" }, scaleBar({ kind: "difference", title: "surprise", ticks: [[0, `−${MOST} bits`], [0.5, "as before"], [1, `+${MOST} bits`]] })),
    make("h4", { textContent: "What comes next at the chosen position" }), bars.element,
    tools({ name: "without the heads", picture: () => domPicture(result),
      table: () => [["position", data.meta.model.unit, "with", "without", "change"], [...data.ids.keys()].slice(1).map((i) =>
        [i, glyph(token(i)), bits(data.surprise[i]), bits(without.surprise[i]), bitsChange(without.surprise[i] - data.surprise[i])])],
      json: () => ({ heads_off: self.off, surprise_with: known(data.surprise), surprise_without: known(without.surprise) }) }).element);
  const element = make("section", { class: "effect" }, make("h3", { textContent: "Without a head" }), make("div", { class: "controls" }, inTurn), result);
  const self = { element, said, off: [], changes: new Map(), set, update };

  const token = (i) => data.meta.vocabulary[data.ids[i]];

  function update(given, at) {
    position = at;
    if (given !== data) { // another prompt: the same heads stay off
      data = given;
      answers = new Map();
      self.changes = new Map();
      set(self.off);
    } else show();
  }

  function set(off) {
    stop.abort();
    stop = new AbortController();
    self.off = off;
    without = null;
    failed = "";
    if (off.length) attempt(async (signal) => { without = await ask(off, signal); });
    show();
  }

  async function ask(off, signal) {
    const key = JSON.stringify(off);
    const mine = answers;
    if (!mine.has(key)) mine.set(key, await api.trace({ ids: [...data.ids], heads_off: off, parts: ["logits", "surprise"] }, { signal }));
    signal.throwIfAborted();
    return mine.get(key);
  }

  async function sweep() {
    const { layers, heads } = data.meta.model;
    inTurn.disabled = true;
    await attempt(async (signal) => {
      for (let i = 0; i < layers * heads; i += 1) {
        const place = [Math.floor(i / heads), i % heads];
        const { surprise } = await ask([place], signal);
        self.changes.set(place.join("."), mean(surprise) - mean(data.surprise));
        changed();
        show();
      }
    });
    inTurn.disabled = false;
  }

  async function attempt(act) {
    const { signal } = stop;
    try {
      await act(signal);
    } catch (error) {
      if (signal.aborted) return;
      failed = error.message;
    }
    if (!signal.aborted) show();
  }

  function show() {
    result.hidden = !without;
    said.textContent = failed || (without ? effect() : self.off.length ? "Computing without it." : intro());
    if (!without) return;
    const { vocabulary } = data.meta;
    text.update({ tokens: Array.from(data.ids, (id) => vocabulary[id]), selected: position,
      values: Array.from(data.ids, (_, i) => (i ? (without.surprise[i] - data.surprise[i]) / BIT / MOST : null)),
      describe: (i) => [`${spoken(token(i))} at ${i}`, i ? `surprise ${bits(data.surprise[i])}, without ${bits(without.surprise[i])}` : "the first has no surprise"] });
    const ticks = softmax(data.logits, vocabulary.length, position);
    bars.update({ tokens: vocabulary, order: largest(ticks, vocabulary.length), bars: softmax(without.logits, vocabulary.length, position), ticks });
  }

  function effect() {
    const { vocabulary } = data.meta;
    const [before, after] = [data, without].map(({ surprise }) => mean(surprise));
    const [p, q] = [data, without].map(({ logits }) => softmax(logits, vocabulary.length, position));
    const [best] = largest(p, 1);
    return `Without ${self.off.map(named).join(", ")} the loss of this text goes from ${bits(before, 3)} to ${bits(after, 3)} a ${data.meta.model.unit}: ${bitsChange(after - before, 3)}. `
      + `After ${spoken(token(position))}, ${spoken(vocabulary[best])} goes from ${percent(p[best])} to ${percent(q[best])}.`;
  }

  function intro() {
    const { layers, heads } = data.meta.model;
    const done = self.changes.size;
    if (!done) return `The loss of this text is ${bits(mean(data.surprise), 3)} a ${data.meta.model.unit}. Choose a head and switch it off, or let each be switched off in turn.`;
    if (done < layers * heads) return `${done} of ${layers * heads} heads switched off in turn.`;
    const [key, most] = [...self.changes].sort((a, b) => b[1] - a[1])[0];
    const idle = [...self.changes.values()].filter((change) => change <= 0).length;
    return `Most depends on head ${named(key.split(".").map(Number))}: ${bitsChange(most, 3)} a ${data.meta.model.unit} without it. For ${idle} of the ${layers * heads} the loss of this text does not rise at all.`;
  }

  return self;
}

const named = ([layer, head]) => `${layer + 1}.${head + 1}`;
const known = (values) => Array.from(values, (value) => (Number.isFinite(value) ? value : null));
