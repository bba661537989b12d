// The page's frame: one state, one payload of numbers about the prompt, one view shown at a time.

import { connect } from "./api.js";
import { make } from "./canvas.js";
import { helpDialog } from "./help.js";
import { listen } from "./keys.js";
import { remember, remembered } from "./memory.js";
import { bits, grouped } from "./numbers.js";
import { promptEditor, surprisePaint } from "./prompt.js";
import { address, format, parse } from "./state.js";
import { spoken } from "./text_data.js";
import { tour } from "./tour.js";
import { VIEWS } from "./views.js";
import { inUnits, namesOf, wordsOf } from "./words.js";

const byId = (id) => document.getElementById(id);
const saved = byId("saved");
const given = parse(location.hash);
const url = address(given.token);

const app = {
  state: given.state,
  data: null, // the payload of the prompt, or of the one before while that is under way
  model: null,
  unit: "character",
  keys: true,
  api: connect(given.token),
  set,
  tokens,
  length: () => tokens().length,
  unknown,
  // Goes on with a token after the chosen position; what stood behind it is dropped, and "back" brings it again.
  append(token) {
    if (app.unit === "token" && token.includes("\\x")) return tell("This token is a part of a character and cannot stand by itself.");
    const { start, text } = tokens()[app.state.position];
    set({ prompt: app.state.prompt.slice(0, start + text.length) + token, position: app.state.position + 1 }, { push: true });
  },
  removeLast() {
    const last = tokens().length - 1;
    if (last > 0) set({ prompt: app.state.prompt.slice(0, tokens()[last].start), position: Math.min(app.state.position, last - 1) });
  },
};
const frames = new Map(); // view -> its part of the page
let editor;
let openTour;
let drawing = 0;

// The prompt cut into what the model reads: {text, id, start}. Characters need no request; tokens come with the numbers.
function tokens(text = app.state.prompt ?? "") {
  const pairs = app.unit === "token" ? Array.from(app.data?.ids ?? [], (id) => [app.model.vocabulary[id], id])
    : Array.from(text, (character) => [character, app.ids.get(character)]);
  let place = 0;
  return pairs.map(([token, id]) => {
    const found = text.indexOf(token, place); // a token that is a part of a character is nowhere in the text
    const start = found >= 0 && found <= place + 2 ? found : place;
    place = found === start ? start + token.length : start;
    return { text: token, id, start };
  });
}

// Why a text cannot be read, in a sentence; "" where it can.
function unknown(text) {
  const strange = app.unit === "token" ? [] : [...new Set(text)].filter((character) => !app.ids.has(character));
  return strange.length ? `The model does not know ${strange.slice(0, 5).map(spoken).join(", ")}: its training text had none. Take ${strange.length > 1 ? "them" : "it"} out.` : "";
}

function set(change, { push = false } = {}) {
  const { view, prompt } = app.state;
  if (app.api.saved && change.prompt !== undefined && change.prompt !== prompt) {
    tell("This page was saved with one prompt. To try others: mlx-tinylm play");
    return;
  }
  const leap = push || (change.view !== undefined && change.view !== view);
  if (leap) url.flush(app.state);
  Object.assign(app.state, change);
  if (leap) url.push(app.state);
  else url.replace(app.state);
  if (app.state.view !== view) VIEWS[view]?.leave?.();
  if (app.state.prompt !== prompt) read();
  redraw();
}

// One request at a time; of the prompts that come meanwhile only the last is read.
let reading = false;
async function read() {
  if (reading || !app.state.prompt) return;
  reading = true;
  const slow = setTimeout(() => { byId("progress").hidden = false; }, 150);
  for (let prompt; prompt !== app.state.prompt;) {
    prompt = app.state.prompt;
    const wrong = unknown(prompt) || (app.length() > app.model.longest && app.unit === "character" ? `At most ${grouped(app.model.longest)} characters are read at once: take some out. Longer texts have their place under 3, Surprise.` : "");
    if (wrong) {
      tell(wrong);
      continue;
    }
    try {
      app.data = await app.api.trace({ text: prompt });
      if (app.unit === "token") app.state.position = editor.caretPosition() ?? app.state.position;
      tell("");
    } catch (error) {
      tell(error.message);
    }
    redraw();
  }
  clearTimeout(slow);
  byId("progress").hidden = true;
  reading = false;
}

function tell(text) {
  if (byId("trouble").textContent !== text) byId("trouble").textContent = text;
}

function redraw() {
  if (!drawing) drawing = requestAnimationFrame(draw);
}

function draw() {
  drawing = 0;
  if (!(app.state.view in VIEWS)) app.state.view = "next";
  if (app.api.saved || app.unit === "character" || app.data?.meta.prompt === app.state.prompt) {
    app.state.position = Math.min(app.state.position ?? Infinity, Math.max(app.length() - 1, 0));
  }
  const { view } = app.state;
  const { title, render, paint } = VIEWS[view];
  const frame = frameOf(view);
  for (const [name, one] of frames) one.element.hidden = name !== view;
  for (const link of byId("views").querySelectorAll("a")) {
    const here = link.dataset.view === view;
    if (here && !link.hasAttribute("aria-current")) link.parentElement.scrollLeft = link.offsetLeft - 16;
    link.href = format(given.token, { ...app.state, view: link.dataset.view });
    if (here) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = `${inUnits(title, app.unit)} of ${app.model.model.name}`;
  editor.update(app.data ? (paint ?? surprisePaint)(app) : null);
  if (!app.data) return;
  if (frame.words.open) frame.meanings.replaceChildren(wordsOf(view, app));
  render(frame.root, app);
}

function frameOf(name) {
  if (!frames.has(name)) {
    const view = VIEWS[name];
    const root = make("div", { class: "view" });
    const meanings = make("div");
    const words = make("details", { class: "meanings", open: (remembered("words") ?? (innerWidth < 720 ? "folded" : "")) !== "folded" }, make("summary", { textContent: `in other words: ${namesOf(name)}` }), meanings);
    words.addEventListener("toggle", () => {
      remember("words", words.open ? "open" : "folded");
      redraw();
    });
    const element = make("article", { "aria-labelledby": `${name}-title` },
      make("div", { class: "title" }, make("h2", { id: `${name}-title`, textContent: inUnits(view.title, app.unit) }), codeOf(view)),
      make("p", { class: "above", textContent: inUnits(view.above, app.unit) }), words, root, make("p", { class: "below", textContent: inUnits(view.below, app.unit) }));
    byId("view").append(element);
    frames.set(name, { element, root, words, meanings });
  }
  return frames.get(name);
}

function codeOf({ codeId }) {
  const code = app.model.code?.[codeId];
  if (!code) return null;
  return make("details", { class: "code" }, make("summary", { textContent: "code" }),
    make("p", { textContent: `${code.file}, line ${code.line}` }), make("pre", { tabIndex: 0, role: "region", "aria-label": "the code", textContent: code.lines.join("\n") }));
}

function navigation() {
  byId("views").append(...Object.entries(VIEWS).map(([name, view], i) => {
    const link = make("a", { "aria-keyshortcuts": String(i + 1) },
      make("b", { textContent: `${i + 1} ${inUnits(view.title, app.unit)}` }), make("span", { textContent: view.promise }));
    link.dataset.view = name;
    link.addEventListener("click", (event) => {
      if (event.metaKey || event.ctrlKey) return;
      event.preventDefault();
      set({ view: name });
    });
    return link;
  }));
}

function facts({ name, family, layers, width, parameters, loss, backend }) {
  byId("name").textContent = name;
  const all = [["family", family], ["layers × width", `${layers} × ${width}`], ["parameters", grouped(parameters)],
    ["loss", loss ? `${bits(loss)} a ${app.unit}` : null], ["back end", backend]];
  byId("facts").append(...all.filter(([, value]) => value !== null).map(([term, value]) => make("div", { title: term === "loss" ? `${loss.toFixed(4)} nats` : "" },
    make("dt", { textContent: term }), make("dd", { textContent: value }))));
}

async function begin() {
  app.model = await app.api.model();
  app.unit = app.model.model.unit;
  app.ids = new Map(app.model.vocabulary.map((text, id) => [text, id]));
  if (saved && !location.hash) app.state = parse(`#&${app.api.saved.state}`).state;
  app.state.prompt ??= app.model.prompt;
  facts(app.model.model);
  navigation();
  editor = promptEditor(byId("prompt"), app);
  openTour = tour(byId("tour"), app);
  const help = helpDialog(app, () => openTour.start());
  byId("help").addEventListener("click", help);
  byId("skip").addEventListener("click", (event) => {
    event.preventDefault(); // its own target would take the state's place in the address
    byId("main").focus();
  });
  listen(app, { edit: editor.focus, help, root: () => frames.get(app.state.view)?.root });
  addEventListener("popstate", back);
  redraw();
  read();
}

function back() {
  const { state, token } = parse(location.hash);
  if (token !== given.token) return location.reload();
  const before = app.state;
  app.state = { ...state, prompt: state.prompt ?? app.model.prompt };
  if (before.view !== app.state.view) VIEWS[before.view].leave?.();
  if (before.prompt !== app.state.prompt) read();
  redraw();
}

begin().catch((error) => tell(error.message));
