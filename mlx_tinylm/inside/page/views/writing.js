// Writing: text as it is drawn, one character after the other; each with what else could have come.

import { button, make, tools } from "../canvas.js";
import { domPicture } from "../dom_picture.js";
import { kept } from "../kept.js";
import { BIT, bits, grouped, percent } from "../numbers.js";
import { SURPRISE, TOP, scaleBar } from "../scale.js";
import { settingsPanel } from "../settings.js";
import { glyph, spoken, textData } from "../text_data.js";

export const title = "Writing";
export const promise = "text as it is drawn";
export const codeId = "writing";
export const above = "The model goes on with your prompt: draw a character, append it, begin again. The colour is how surprising each was to the model; what is underlined stands word for word in the training text.";
export const below = "What is not underlined may still be a near copy, and a run of 20 letters can match by chance in common phrases. The same prompt, settings and seed write the same again, also with: mlx-tinylm generate";

const TOKENS = 400;
const PACES = [["as fast as it comes", 1e6], ["30 a second", 30], ["8 a second", 8]];
const shown = new Set();

export const render = kept(build);

export function leave() {
  for (const view of shown) view.pause();
}

function build(app) {
  let items = []; // what is written: {id, text, p, top, chosen?}
  let queue = []; // what has come and is not shown yet
  let runs = []; // {start, end, first, last}: items that stand in the training text, and its lines
  let running = false;
  let finished = "";
  let prompt = app.state.prompt;
  let how = ""; // the settings and the seed that it is drawn with
  let at = null; // the item that is looked at; null: the newest
  let stop = null;
  let due = 0; // when the last frame was
  let owed = 0; // characters to show by now
  let frame = 0;
  const write = button("write", () => toggle(), { "data-key": " ", "aria-keyshortcuts": "Space", class: "first" });
  const one = button("one step", () => step());
  const again = button("start again", () => reset());
  const use = button("use as prompt", () => app.set({ prompt: whole().slice(-app.model.longest), position: app.model.longest }, { push: true }));
  const pace = make("select", { id: "pace" }, ...PACES.map(([text], i) => make("option", { value: String(i), textContent: text })));
  const seed = make("input", { type: "number", id: "writing-seed", min: 0, step: 1 });
  seed.addEventListener("input", () => seed.validity.valid && seed.value !== "" && app.set({ seed: Number(seed.value) }));
  const settings = settingsPanel(app);
  const drawn = make("details", { class: "drawn-how" }, make("summary", { textContent: "how it is drawn" }), settings.element);
  const text = textData({ label: "The prompt and what was written", onSelect: select });
  text.grid.dataset.arrows = "";
  const said = make("p", { class: "reading", role: "status" });
  const others = make("div", { class: "others" });
  const found = make("ol", { class: "origins" });
  const foundHead = make("p", { class: "note" });
  const element = make("div", { class: "view-writing" },
    make("div", { class: "controls" }, write, one, again, use),
    make("div", { class: "controls" }, make("span", {}, make("label", { htmlFor: "writing-seed", textContent: "Seed " }), seed), make("span", {}, make("label", { htmlFor: "pace", textContent: "Pace " }), pace)), drawn, text.element,
    make("div", { class: "scales" }, scaleBar(SURPRISE)), said,
    make("div", { class: "pair" },
      make("section", {}, make("h3", { textContent: "What else could have come" }), make("p", { class: "note", textContent: "The five likeliest there, by the model itself, before the settings. Choose one to go on with it instead." }), others),
      make("section", {}, make("h3", { textContent: "Word for word in the training text" }), foundHead, found)),
    tools({ name: "writing", picture: () => domPicture(text.grid),
      table: () => [["place", app.unit, "probability", "surprise"], items.map((item, i) => [i, glyph(item.text), percent(item.p), bits(-Math.log(item.p))])],
      json: () => ({ prompt, settings: app.state.settings, seed: app.state.seed, written: items.map(({ id, text: piece, p, top }) => ({ id, text: piece, p, top })), in_training_text: runs }) }).element);
  const view = { pause: () => run(false) };
  shown.add(view);

  const why = () => app.model.text.why.replace(/^.*?: /, "");
  const whole = () => prompt + items.map((item) => item.text).join("");
  const looked = () => Math.min(at ?? Infinity, items.length - 1);

  function reset() {
    stop?.abort();
    stop = null;
    [items, queue, runs, finished, at] = [[], [], [], "", null];
    run(false);
    draw();
  }

  function toggle() {
    if (finished && !queue.length) reset();
    at = null;
    run(!running);
    draw();
  }

  function step() {
    run(false);
    at = null;
    owed = 1;
    listen();
    wake();
  }

  function run(on) {
    running = on;
    owed = 0;
    write.textContent = on ? "pause" : items.length && !finished ? "go on" : "write";
    if (!on) return;
    listen();
    due = performance.now();
    wake();
  }

  const wake = () => {
    frame ||= requestAnimationFrame(play);
  };

  // The whole is asked for at once, so that a pause changes nothing of what a seed writes.
  async function listen() {
    if (stop || finished) return;
    const mine = stop = new AbortController();
    try {
      for await (const line of app.api.write({ text: whole(), settings: app.state.settings, seed: app.state.seed, tokens: TOKENS }, { signal: mine.signal })) {
        if (mine !== stop) return;
        queue.push(line);
      }
    } catch (error) {
      if (mine === stop && error.name !== "AbortError") queue.push({ failed: error.message });
    }
    if (mine === stop && !queue.at(-1)?.done && !queue.at(-1)?.failed) queue.push({ done: "end" });
  }

  function play(now) {
    frame = 0;
    if (running) {
      owed = queue.length ? owed + Math.max(0, now - due) / 1000 * PACES[pace.value][1] : 0;
      due = now;
    }
    let changed = false;
    for (; queue.length && owed >= 1; owed -= 1) {
      const line = queue.shift();
      changed = true;
      if (line.done || line.failed) {
        finished = line.failed ?? { length: `Written: ${grouped(items.length)} ${app.unit}s.`, end: "The end of a text was drawn.", time: "The time for one answer is over." }[line.done];
        run(false);
      } else add(line);
    }
    if (changed) draw();
    if (running || owed >= 1) wake();
  }

  function add(line) {
    items.push(line);
    if (!line.origin) return;
    const [first, last, length] = line.origin;
    const end = items.length;
    let start = end;
    for (let left = length; left > 0 && start > 0; start -= 1) left -= items[start - 1].text.length;
    const before = runs.at(-1);
    if (before && start <= before.start) runs.pop();
    runs.push({ start: Math.min(start, before && start <= before.start ? before.start : start), end, first, last });
  }

  function fork(i, [id, p]) {
    stop?.abort();
    stop = null;
    items = [...items.slice(0, i), { ...items[i], id, p, text: app.model.vocabulary[id], chosen: true, origin: null }];
    runs = runs.filter((each) => each.start < i).map((each) => ({ ...each, end: Math.min(each.end, i) })).filter((each) => each.end - each.start >= 20);
    [queue, finished, at] = [[], "", null];
    run(true);
    draw();
  }

  function select(place) {
    const i = place - app.length();
    if (i < 0) app.set({ position: place });
    else at = i;
    run(false);
    draw();
  }

  function draw() {
    const before = app.tokens();
    const places = before.length;
    text.update({
      tokens: [...before.map((each) => each.text), ...items.map((item) => item.text)],
      values: [...before.map(() => null), ...items.map((item) => -Math.log(item.p) / BIT / TOP)],
      selected: items.length ? places + looked() : app.state.position,
      describe: (i) => {
        const item = items[i - places];
        if (!item) return [`${spoken(before[i]?.text ?? "")}, of the prompt`];
        const inside = runs.find((each) => each.start <= i - places && i - places < each.end);
        return [`${spoken(item.text)} ${item.chosen ? "chosen by you" : "drawn"}, ${percent(item.p)}, ${bits(-Math.log(item.p))}`, ...(inside ? [lines(inside)] : [])];
      },
    });
    const spans = text.grid.querySelectorAll("span");
    items.forEach((item, i) => spans[places + i].classList.toggle("by-reader", Boolean(item.chosen)));
    const known = new Set(runs.flatMap(({ start, end }) => Array.from({ length: end - start }, (_, i) => start + i)));
    items.forEach((_, i) => spans[places + i].classList.toggle("known", known.has(i)));
    say(known.size);
    drawOthers();
    drawOrigins();
    again.disabled = !items.length;
    use.disabled = !items.length || Boolean(app.api.saved);
  }

  function say(known) {
    const mean = items.reduce((sum, item) => sum - Math.log(item.p), 0) / items.length;
    said.textContent = !items.length ? finished || "Nothing is written yet: Space or “write” begins."
      : `${finished ? `${finished} ` : ""}Drawn at ${bits(mean)} a ${app.unit} in the mean. ${why() ? "" : `${percent(known / items.length).replace(/\.\d+/, "")} of it stands in the training text in runs of 20 or more.`}`;
  }

  function drawOthers() {
    const item = items[looked()];
    if (!item?.top) {
      others.replaceChildren(make("p", { class: "note", textContent: `Click a written ${app.unit}, or go to it with ← and →.` }));
      return;
    }
    const i = looked();
    const top = item.top.some(([id]) => id === item.id) ? item.top : [...item.top, [item.id, item.p]];
    others.replaceChildren(...top.map(([id, p], place) => {
      const token = app.model.vocabulary[id];
      const same = id === item.id;
      const fill = make("span", { class: "fill" });
      fill.style.width = `${100 * p}%`;
      const choice = others.children[place]?.matches("button") ? others.children[place] : make("button", { type: "button" });
      choice.onclick = () => fork(i, [id, p]);
      choice.disabled = same || (app.unit === "token" && token.includes("\\x")); // a part of a character
      choice.setAttribute("aria-label", same ? `${spoken(token)}, ${percent(p)}: this one came` : `go on with ${spoken(token)} instead, ${percent(p)}`);
      choice.replaceChildren(make("span", { class: "glyph", textContent: glyph(token) }), make("span", { class: "track" }, fill), make("span", { class: "number", textContent: percent(p) }));
      return choice;
    }));
  }

  const lines = ({ first, last }) => (first === last ? `line ${grouped(first)}` : `lines ${grouped(first)}–${grouped(last)}`);

  function drawOrigins() {
    found.replaceChildren(...runs.slice(-6).map((each) => make("li", {}, make("q", { textContent: glyph(items.slice(each.start, each.end).map((item) => item.text).join("")) }), ` ${lines(each)}`)));
    foundHead.textContent = why() ? `The training text cannot be looked at: ${why()}` : runs.length ? `${grouped(runs.length)} ${runs.length === 1 ? "run" : "runs"} of 20 characters or more, the last at the bottom.` : "No run of 20 characters or more so far.";
  }

  function update(next) {
    app = next;
    if (prompt !== app.state.prompt) {
      prompt = app.state.prompt;
      reset();
    }
    const wanted = JSON.stringify([app.state.settings, app.state.seed]);
    if (how !== wanted && stop && !finished) { // what has not been shown is drawn anew
      stop.abort();
      [stop, queue] = [null, []];
      if (running) listen();
    }
    how = wanted;
    settings.update();
    if (document.activeElement !== seed) seed.value = app.state.seed;
    seed.disabled = drawn.hidden = Boolean(app.api.saved);
    draw();
  }

  return { element, update };
}
