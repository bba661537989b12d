// Surprise: a text of the reader's, each character by how little the model expected it.

import { make, tools } from "../canvas.js";
import { domPicture } from "../dom_picture.js";
import { kept } from "../kept.js";
import { BIT, bits, grouped, largest, mean, percent, softmax } from "../numbers.js";
import { SURPRISE, TOP, scaleBar } from "../scale.js";
import { glyph, spoken, textData } from "../text_data.js";

export const title = "Surprise";
export const promise = "what it did not expect";
export const codeId = "surprise";
export const above = "Each character of a text is coloured by its surprise: how little the model expected it after all that stands before. Paste a text of your own; without one it is the prompt.";
export const below = "Surprise is about this model and its training text: a rare word, another language or a typing error all look alike. The first character has none, for nothing stands before it.";

const PAUSE = 250; // ms without a key before a text is measured

export const render = kept(build);

function build(app) {
  let own = null; // the reader's text, null: the prompt
  let shown = null; // {ids, nats, top(i), rank(i)}
  let at = 0;
  let stop = new AbortController();
  let waiting = 0;
  const input = make("textarea", { id: "own-text", rows: 4, spellcheck: false, maxLength: app.model.limits.surprise, readOnly: Boolean(app.api.saved) });
  const text = textData({ label: "The text by surprise", onSelect: select });
  text.grid.dataset.arrows = "";
  const total = make("p", { class: "total", role: "status" });
  const detail = make("p", { class: "reading" });
  const expected = make("ol", { class: "expected" });
  const most = make("ol", { class: "most" });
  const problem = make("p", { class: "problem", role: "alert" });
  const token = (i) => app.model.vocabulary[shown.ids[i]];
  const rows = () => Array.from(shown.ids.keys(), (i) => [i, glyph(token(i)), Number.isFinite(shown.nats[i]) ? (shown.nats[i] / BIT).toFixed(2) : "–", Number.isFinite(shown.nats[i]) ? percent(Math.exp(-shown.nats[i])) : "–", (shown.top(i) ?? []).map(([id, p]) => `${glyph(app.model.vocabulary[id])} ${percent(p)}`).join("  ")]);
  const element = make("div", { class: "view-surprise" },
    make("label", { htmlFor: "own-text", textContent: "Your text" }), input, problem, total, text.element,
    make("div", { class: "scales" }, scaleBar(SURPRISE)),
    make("div", { class: "pair" },
      make("section", {}, make("h3", { textContent: "What was expected" }), detail, expected),
      make("section", {}, make("h3", { textContent: "The greatest surprises" }), most)),
    tools({ name: "surprise", picture: () => domPicture(text.grid), table: () => [["position", app.unit, "bits", "probability", "expected"], rows()],
      json: () => ({ text: Array.from(shown.ids.keys(), token).join(""), mean_nats: mean(shown.nats), bits: mean(shown.nats) / BIT, surprise_nats: Array.from(shown.nats, (nats) => (Number.isFinite(nats) ? nats : null)) }) }).element);
  input.addEventListener("input", () => {
    clearTimeout(waiting);
    stop.abort();
    own = input.value === "" || input.value === app.state.prompt ? null : input.value;
    problem.textContent = own === null ? "" : app.unknown(own);
    if (own === null) update(app);
    else if (!problem.textContent) waiting = setTimeout(measure, PAUSE, own);
  });

  async function measure(wanted) {
    stop = new AbortController();
    try {
      const answer = await app.api.surprise({ text: wanted }, { signal: stop.signal });
      if (wanted !== own) return;
      shown = { ids: answer.ids, nats: answer.nats.map((nats) => nats ?? NaN), top: (i) => answer.top[i], rank: (i) => (answer.top[i] ?? []).findIndex(([id]) => id === answer.ids[i]), of: 3 };
      at = Math.min(at, shown.ids.length - 1);
      problem.textContent = "";
      draw();
    } catch (error) {
      if (error.name !== "AbortError") problem.textContent = error.message;
    }
  }

  // What the payload of the prompt says, in the same form.
  function ofPrompt({ ids, surprise, logits }) {
    const V = app.model.vocabulary.length;
    const before = (i) => softmax(logits, V, i - 1);
    return {
      ids, nats: surprise, of: V,
      top: (i) => (i ? largest(before(i), 3).map((id) => [id, before(i)[id]]) : []),
      rank: (i) => (i ? largest(before(i), V).indexOf(ids[i]) : -1),
    };
  }

  function select(position) {
    if (own === null) app.set({ position });
    at = position;
    draw();
  }

  function draw() {
    const counted = Array.from(shown.nats).filter(Number.isFinite).length;
    text.update({
      tokens: Array.from(shown.ids.keys(), token), selected: at,
      values: Array.from(shown.nats, (nats) => (Number.isFinite(nats) ? nats / BIT / TOP : null)),
      describe: (i) => [`${spoken(token(i))} at ${i}`, ...(Number.isFinite(shown.nats[i]) ? [`surprise ${bits(shown.nats[i])}`, rankOf(i), `expected: ${(shown.top(i) ?? []).map(([id, p]) => `${spoken(app.model.vocabulary[id])} ${percent(p)}`).join(", ")}`] : ["the first: nothing before it"])],
    });
    const loss = mean(shown.nats);
    total.replaceChildren(make("b", { textContent: counted ? `${bits(loss, 4)} a ${app.unit}` : "–" }),
      counted ? ` in the mean of ${grouped(counted)} ${app.unit}s (a loss of ${loss.toFixed(4)} nats): what mlx-tinylm eval says of this text.` : " One more is needed: the first has nothing before it.");
    const here = Number.isFinite(shown.nats[at]);
    detail.textContent = here ? `At position ${at} came ${spoken(token(at))}, ${rankOf(at)}, with ${percent(Math.exp(-shown.nats[at]))}: a surprise of ${bits(shown.nats[at])}.` : `Nothing stands before the first ${app.unit}, so nothing was expected.`;
    expected.replaceChildren(...(here ? shown.top(at) ?? [] : []).map(([id, p]) => {
      const fill = make("span", { class: "fill" });
      fill.style.width = `${100 * p}%`;
      return make("li", { class: id === shown.ids[at] ? "came" : "" }, make("span", { class: "glyph", textContent: glyph(app.model.vocabulary[id]) }), make("span", { class: "track" }, fill), make("span", { class: "number", textContent: percent(p) }));
    }));
    const greatest = largest(Array.from(shown.nats, (nats) => (Number.isFinite(nats) ? nats : -1)), Math.min(5, counted));
    while (most.children.length > greatest.length) most.lastChild.remove();
    greatest.forEach((i, place) => {
      const go = most.children[place]?.firstChild ?? most.appendChild(make("li", {}, make("button", { type: "button" }))).firstChild;
      go.onclick = () => select(i);
      const start = Math.max(0, i - 16);
      const context = Array.from({ length: i - start }, (_, k) => token(start + k)).join("");
      go.replaceChildren(make("span", { class: "muted", textContent: glyph(context) }), make("b", { textContent: glyph(token(i)) }), make("span", { class: "number", textContent: bits(shown.nats[i]) }));
    });
  }

  function rankOf(i) {
    const rank = shown.rank(i);
    if (rank < 0) return "not among the first three";
    return rank ? `number ${rank + 1}${shown.of > 3 ? ` of ${grouped(shown.of)}` : ""} in the model's order` : "the model's first choice";
  }

  function update(next) {
    app = next;
    if (own === null) {
      if (document.activeElement !== input) input.value = app.state.prompt;
      shown = ofPrompt(app.data);
      at = Math.min(app.state.position, shown.ids.length - 1);
      problem.textContent = "";
    }
    if (shown) draw();
  }

  return { element, update };
}
