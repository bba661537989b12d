// Characters: which embeddings are close to each other.

import { make, picture, tools } from "../canvas.js";
import { domPicture } from "../dom_picture.js";
import { chosenPosition, kept } from "../kept.js";
import { grouped, percent } from "../numbers.js";
import { brief, glyph, spoken } from "../text_data.js";
import { inUnits } from "../words.js";

export const title = "Characters";
export const promise = "which ones it treats alike";
export const codeId = "characters";
export const above = "Each character is stored as an embedding, a list of numbers that training chose. Two that point the same way (cosine near 1) are treated alike by all that follows.";
export const below = "The plane keeps two of many directions: close there does not mean close in all of them, so the list comes first. That two are close says that the text uses them alike, not what they are.";

export const render = kept(build);

function build(app) {
  let found = null; // {ids?, neighbours (V,8), cosine (V,8), plane (V,2) with null for what training never showed, variance (2)}
  let asked = false;
  let chosen = null;
  let followed = null; // the id at the chosen position of the prompt
  let hovered = null;
  const choice = make("select", { id: "character" });
  const said = make("p", { class: "reading", role: "status" });
  const list = make("tbody");
  const near = make("table", { class: "paired-bars near" },
    make("caption", { class: "visually-hidden", textContent: `Nearest neighbours of the chosen ${app.unit}` }),
    make("thead", {}, make("tr", {}, make("th", { scope: "col", textContent: "near" }), make("td"), make("th", { scope: "col", class: "number", textContent: "cosine" }))), list);
  const everyone = make("div", { class: "everyone", tabIndex: 0, role: "region", "aria-label": `the nearest three of each ${app.unit}` });
  const readout = make("p", { class: "readout" });
  const plane = picture({
    name: `${app.unit}s in the plane`,
    label: () => `${shown().length} ${app.unit}s in the plane of the two main components, which hold ${variance()} of the variance. Chosen: ${spoken(names()[chosen])}.`,
    height: (width) => Math.round(Math.min(width, 620) * 0.82),
    maxWidth: () => 620,
    draw: drawPlane,
    table: () => [[app.unit, "id", "first component", "second component"], shown().map((id) => [glyph(names()[id]), id, ...found.plane[id].map((value) => Number(value.toFixed(3)))])],
    json: () => ({ characters: names(), plane: found.plane, variance: found.variance }),
    onPoint: (x, y, kind) => {
      const ratio = window.devicePixelRatio || 1;
      const place = places(plane.canvas.width, plane.canvas.height, ratio);
      const close = kind === "leave" ? -1 : closest(place, x, y, 18 * ratio);
      hovered = close < 0 ? null : close;
      if (kind === "click" && close >= 0) choose(close);
      else say();
    },
  });
  const element = make("div", { class: "view-characters" },
    make("div", { class: "controls" }, make("label", { htmlFor: "character", textContent: inUnits("Character", app.unit) }), choice), said,
    make("div", { class: "pair" },
      make("section", {}, make("h3", { textContent: "Nearest" }), near,
        tools({ name: "nearest neighbours", picture: () => domPicture(near), table: () => [[app.unit, ...Array.from({ length: found?.neighbours[0].length ?? 0 }, (_, i) => `${i + 1}.`)], shown().map((id) => [glyph(names()[id]), ...found.neighbours[id].map((other, i) => `${glyph(names()[other])} ${found.cosine[id][i].toFixed(2)}`)])],
          json: () => ({ characters: names(), neighbours: found.neighbours, cosine: found.cosine }) }).element,
        make("h3", { textContent: `Every ${app.unit} and its nearest three` }), everyone),
      make("section", {}, make("h3", { textContent: "The plane" }), readout, plane.element)));

  choice.addEventListener("change", () => choose(Number(choice.value)));
  const names = () => app.data.meta.vocabulary;
  const shown = () => (found ? [...names().keys()].filter((id) => found.plane[id]) : []);
  const variance = () => percent(found.variance[0] + found.variance[1]);

  function update(next) {
    app = next;
    if (!asked) {
      asked = true;
      app.api.embedding().then((answer) => {
        found = read(answer);
        update(app);
      }, (error) => {
        asked = false;
        said.textContent = error.message;
      });
    }
    if (!app.data?.ids.length || !found) return;
    if (choice.options.length !== shown().length) {
      choice.replaceChildren(...shown().map((id) => make("option", { value: String(id), textContent: spoken(names()[id]) })));
      fillEveryone();
    }
    const id = app.data.ids[chosenPosition(app)];
    if (id !== followed) { // the selection moved: what was chosen here makes way
      followed = id;
      chosen = id;
    }
    show();
  }

  function choose(id) {
    chosen = id;
    show();
  }

  function show() {
    choice.value = String(chosen);
    const name = spoken(names()[chosen]);
    const [first] = found.neighbours[chosen];
    said.textContent = !found.plane[chosen] ? `Training never showed ${name}: its embedding is as chance made it.`
      : first === undefined ? "" : `Closest to ${name} is ${spoken(names()[first])}, with a cosine of ${found.cosine[chosen][0].toFixed(2)}.`;
    list.replaceChildren(...found.neighbours[chosen].map((other, i) => {
      const cosine = found.cosine[chosen][i];
      const fill = make("span", { class: "fill" });
      fill.style.width = `${100 * Math.max(cosine, 0)}%`;
      return make("tr", {}, make("th", { scope: "row", class: "glyph", textContent: brief(names()[other]) }),
        make("td", { class: "track-cell" }, make("div", { class: "track" }, fill)), make("td", { class: "number", textContent: cosine.toFixed(2) }));
    }));
    for (const one of everyone.children) one.setAttribute("aria-pressed", String(one.dataset.id === String(chosen)));
    say();
    plane.redraw();
  }

  function say() {
    const [first, second] = found.variance;
    const out = names().length - shown().length;
    readout.textContent = hovered === null
      ? `Two directions hold ${percent(first)} and ${percent(second)} of the variance.${out ? ` Training never showed ${grouped(out)} of the ${grouped(names().length)} ids: they are left out.` : ""}`
      : `${spoken(names()[hovered])}, id ${hovered}: (${found.plane[hovered].map((value) => value.toFixed(2)).join(", ")})`;
  }

  function fillEveryone() {
    everyone.replaceChildren(...shown().map((id) => {
      const one = make("button", { type: "button", class: "one" }, make("b", { textContent: brief(names()[id]) }),
        make("span", { textContent: found.neighbours[id].slice(0, 3).map((other) => brief(names()[other])).join(" ") }));
      one.dataset.id = String(id);
      one.addEventListener("click", () => choose(id));
      return one;
    }));
  }

  // Where each character stands, in device pixels: both axes have one unit, so that distances can be compared.
  function places(width, height, ratio) {
    const edge = 22 * ratio;
    const range = [0, 1].map((axis) => found.plane.filter(Boolean).reduce(([low, high], point) => [Math.min(low, point[axis]), Math.max(high, point[axis])], [Infinity, -Infinity]));
    const unit = Math.min((width - 2 * edge) / (range[0][1] - range[0][0] || 1), (height - 2 * edge - 24 * ratio) / (range[1][1] - range[1][0] || 1));
    const middle = range.map(([low, high]) => (low + high) / 2);
    return found.plane.map((point) => point && [width / 2 + (point[0] - middle[0]) * unit, (height - 24 * ratio) / 2 - (point[1] - middle[1]) * unit]);
  }

  function drawPlane({ context, width, height, ratio, ink }) {
    const place = places(width, height, ratio);
    const close = new Set(place[chosen] ? found.neighbours[chosen] : []);
    context.textAlign = "center";
    context.textBaseline = "middle";
    context.lineWidth = ratio;
    context.strokeStyle = ink.model;
    context.globalAlpha = 0.5;
    for (const other of close) {
      context.beginPath();
      context.moveTo(...place[chosen]);
      context.lineTo(...place[other]);
      context.stroke();
    }
    context.globalAlpha = 1;
    const order = shown().sort((a, b) => rank(a) - rank(b));
    for (const id of order) {
      const strong = id === chosen || close.has(id);
      const size = strong ? 17 : 15;
      context.font = `${strong ? "bold " : ""}${size * ratio}px ${ink.mono}`;
      const letters = brief(names()[id]);
      const half = context.measureText(letters).width / 2;
      const x = Math.min(Math.max(place[id][0], half + 3 * ratio), width - half - 3 * ratio);
      if (id === chosen) {
        context.fillStyle = ink.chosen;
        context.fillRect(x - half - 3 * ratio, place[id][1] - 10 * ratio, 2 * half + 6 * ratio, 20 * ratio);
      }
      context.fillStyle = id === chosen ? ink.ground : strong ? ink.model : ink.muted;
      context.fillText(letters, x, place[id][1]);
    }
    context.font = `${12 * ratio}px ${ink.sans}`;
    context.fillStyle = ink.muted;
    context.textAlign = "left";
    context.fillText(`across: ${percent(found.variance[0])} of the variance, up: ${percent(found.variance[1])}`, 4 * ratio, height - 10 * ratio);
    function rank(id) {
      return id === chosen ? 2 : close.has(id) ? 1 : 0;
    }
  }

  return { element, update };
}

function closest(places, x, y, within) {
  let best = -1;
  let distance = within;
  places.forEach((place, id) => {
    const away = place ? Math.hypot(place[0] - x, place[1] - y) : Infinity;
    if (away < distance) [best, distance] = [id, away];
  });
  return best;
}

// The answer of /api/embedding: neighbours as ids, or as [id, cosine] pairs.
function read(answer) {
  const pairs = Array.isArray(answer.neighbours[0][0]);
  return {
    neighbours: pairs ? answer.neighbours.map((row) => row.map(([id]) => id)) : answer.neighbours,
    cosine: pairs ? answer.neighbours.map((row) => row.map(([, cosine]) => cosine)) : answer.cosine,
    plane: answer.plane,
    variance: answer.variance,
  };
}
