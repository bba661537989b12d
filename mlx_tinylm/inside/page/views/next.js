// Next character: the whole distribution at the chosen position, before and after the settings, and the draw.

import { distributionBars } from "../bars.js";
import { button, make, tools } from "../canvas.js";
import { domPicture } from "../dom_picture.js";
import { kept } from "../kept.js";
import { grouped, percent, softmax } from "../numbers.js";
import { firstDraw } from "../random.js";
import { distribution, draw, FILTERS } from "../sampling.js";
import { settingsPanel } from "../settings.js";
import { brief, glyph, spoken } from "../text_data.js";

export const title = "Next character";
export const promise = "what comes next, and why";
export const codeId = "next";
export const above = "For everything that could follow the chosen character the model gives a probability. One is drawn; the sliders change how boldly. Click a bar to go on with it.";
export const below = "These are shares of a draw, not beliefs: the model adds up numbers from the text so far, and 90% means only that this came next in most places of the training text that led to such numbers.";

const SHORT = { top_k: "top-k", top_p: "top-p", min_p: "min-p" };
const views = new WeakMap();

export const render = kept(build);

export function onKey(key, app, root) {
  const view = views.get(root.firstChild);
  if (!view) return false;
  if (key === "ArrowDown" || key === "ArrowUp") view.bars.move(key === "ArrowDown" ? 1 : -1);
  else if (key === "Enter") view.choose(view.bars.chosen());
  else return false;
  return true;
}

function build(app) {
  const reading = make("p", { class: "reading", role: "status" });
  const filtered = make("p", { class: "note filtered" });
  const bars = distributionBars({ onChoose: choose });
  const settings = settingsPanel(app);
  const axis = make("div", { class: "cumulative", role: "img" });
  const mark = make("span", { class: "draw-mark" });
  const drawn = make("p", { class: "drawn" });
  const seed = make("input", { type: "number", id: "seed", min: 0, max: Number.MAX_SAFE_INTEGER, step: 1 });
  seed.addEventListener("input", () => seed.validity.valid && seed.value !== "" && app.set({ seed: Number(seed.value) }));
  const take = button("append it", () => choose(now.drawn), { class: "first" });
  const shownBars = make("div", {}, bars.element, filtered,
    tools({ name: "next character", picture: () => domPicture(bars.element),
      table: () => [["next", "id", "model", "drawn", "cut by", "3-gram"], now.order.map((id) => [glyph(now.tokens[id]), id, percent(now.before[id]), percent(now.after[id]), now.cut[id]?.replace("_", "-") ?? "", now.counter ? percent(now.counter[id]) : "–"])],
      json: () => ({ prompt: app.state.prompt, position: app.state.position, settings: app.state.settings, seed: app.state.seed, draw: now.u, drawn: now.drawn,
        next: now.order.map((id) => ({ id, text: now.tokens[id], model: now.before[id], drawn: now.after[id], cut: now.cut[id], counter: now.counter?.[id] })) }) }).element);
  const element = make("div", { class: "view-next" }, reading,
    make("div", { class: "beside" }, shownBars, settings.element),
    make("h3", { textContent: "The draw" }),
    make("p", { class: "note", textContent: "All that can be drawn, end to end in the order of the ids; a number from 0 to 1 falls on one of them." }),
    make("div", { class: "cumulative-frame" }, axis, mark), make("div", { class: "cumulative-scale", "aria-hidden": "true" }, make("span", { textContent: "0" }), make("span", { textContent: "0.5" }), make("span", { textContent: "1" })),
    make("div", { class: "controls" }, make("label", { htmlFor: "seed", textContent: "Seed" }), seed, button("another seed", () => app.set({ seed: app.state.seed + 1 })), take), drawn);
  let now = {};
  let about = "";
  views.set(element, { bars, choose });

  function choose(id) {
    const focused = bars.isFocused();
    app.append(now.tokens[id]);
    bars.first();
    if (focused) bars.focusFirst();
  }

  function update(given) {
    app = given;
    const { data, state, model } = app;
    const tokens = model.vocabulary;
    const V = tokens.length;
    const position = Math.min(state.position, data.ids.length - 1);
    const logits = data.logits.subarray(position * V, (position + 1) * V);
    const before = softmax(data.logits, V, position);
    const { p: after, cut } = distribution(logits, state.settings, Array.from(data.ids.subarray(0, position + 1)), model.suppressed);
    const counter = data.counter ? data.counter.subarray(position * V, (position + 1) * V) : null;
    const order = Array.from(tokens.keys()).sort((a, b) => after[b] - after[a] || before[b] - before[a] || a - b);
    const u = firstDraw(state.seed);
    now = { tokens, before, after, cut, counter, order, u, drawn: draw(after, u) };
    if (about !== `${position} ${data.ids.length} ${data.ids[position]}`) bars.first();
    about = `${position} ${data.ids.length} ${data.ids[position]}`;
    const last = position === data.ids.length - 1;
    bars.update({ ...now, verb: last ? "append" : "cut the prompt here and append" });
    settings.update();
    say(data, position, last);
    sayFiltered(state.settings);
    showDraw();
    if (document.activeElement !== seed) seed.value = state.seed;
  }

  function say(data, position, last) {
    const { tokens, before, counter } = now;
    const best = before.indexOf(Math.max(...before));
    const pair = data.ids.subarray(Math.max(0, position - 1), position + 1);
    const looked = glyph([...pair].map((id) => tokens[id]).join(""));
    const counted = counter ? ` A counter that looks at “${looked}” alone, and at what followed it in the training text, gives it ${percent(counter[best])}.` : ` ${app.model.text.why}`;
    const really = last ? "" : ` In your prompt ${spoken(tokens[data.ids[position + 1]])} follows, which had ${percent(before[data.ids[position + 1]])}.`;
    reading.textContent = `After ${spoken(tokens[data.ids[position]])} the model gives most, ${percent(before[best])}, to ${spoken(tokens[best])}.${really}${counted}`;
  }

  function sayFiltered(settings) {
    const parts = FILTERS.filter((name) => settings[name] !== null).map((name) => {
      const ids = [...now.cut.keys()].filter((id) => now.cut[id] === name);
      return `${SHORT[name]} cut ${grouped(ids.length)}${ids.length ? `, which had ${percent(ids.reduce((sum, id) => sum + now.before[id], 0))} together` : ""}`;
    });
    const never = app.model.suppressed.length;
    if (never) parts.push(never === 1 ? `${brief(now.tokens[app.model.suppressed[0]], 16)} is never drawn` : `${grouped(never)} are never drawn`);
    filtered.textContent = parts.length ? `${parts.join("; ")}. What was cut stays as an outline.` : "Nothing is cut: every one can be drawn.";
  }

  function showDraw() {
    const { after, tokens, u, drawn: id } = now;
    const kept = [...after.keys()].filter((one) => after[one] > 0);
    while (axis.children.length < kept.length) axis.append(make("span"));
    [...axis.children].forEach((part, i) => {
      const one = kept[i];
      part.hidden = one === undefined;
      if (one === undefined) return;
      part.style.flexGrow = after[one];
      part.textContent = after[one] > 0.03 ? brief(tokens[one], 3) : "";
      part.className = one === id ? "drawn-one" : after[one] < 0.004 ? "thin" : "";
    });
    mark.style.left = `${100 * u}%`;
    axis.setAttribute("aria-label", `The draw ${u.toFixed(4)} falls on ${spoken(tokens[id])}, which has ${percent(after[id])}.`);
    take.textContent = `append ${spoken(tokens[id])}`;
    drawn.textContent = `Seed ${app.state.seed} draws ${u.toFixed(4)}, which falls on ${spoken(tokens[id])} (${percent(after[id])}): the same as the program's first draw with this prompt, these settings and this seed.`;
  }

  return { element, update };
}
