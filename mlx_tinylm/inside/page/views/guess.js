// Guess: the reader against the model and the counter, on text that the model was not trained on.

import { button, make, tools } from "../canvas.js";
import { kept } from "../kept.js";
import { BIT, bits, grouped, percent } from "../numbers.js";
import { TOP, scaleBar } from "../scale.js";
import { spoken, textData } from "../text_data.js";

export const title = "Guess";
export const promise = "you against the model";
export const codeId = "guess";
export const above = "This text was held out: the model was not trained on it. Say how sure you are, then type the character that you expect next. Whoever gives more to what really comes pays fewer bits.";
export const below = "You give your share to one character and spread the rest evenly over all others, while model and counter weigh every one: a better score of theirs is partly that. A few guesses say little; twenty say more.";

const GIVEN = 40; // characters shown before the first guess
const SURE = [["sure", 0.9], ["likely", 0.6], ["a try", 0.3]];

export const render = kept(build);

export function onKey(key, app, root) {
  if (key !== "Enter") return false;
  root.querySelector("#guess")?.focus();
  return true;
}

function build(app) {
  let game = null; // the answer of /api/held_out
  let asked = false;
  let round = 0;
  let place = 0; // the position that is to be guessed
  let costs = []; // {you, model, counter, guess} in nats of each guessed character
  let at = null;
  const text = textData({ label: "The held-out text so far", onSelect: (i) => {
    at = i;
    draw();
  } });
  text.grid.dataset.arrows = "";
  const whole = app.unit === "token"; // a guess has several characters, and Enter ends it
  const input = make("input", { type: "text", id: "guess", autocomplete: "off", autocapitalize: "off", spellcheck: false, maxLength: whole ? 40 : 2, "aria-describedby": "verdict" });
  const sure = make("div", { class: "controls", role: "radiogroup", "aria-label": "How sure you are" }, ...SURE.map(([word, share], i) => make("label", { class: "check" },
    make("input", { type: "radio", name: "sure", value: String(share), checked: i === 1 }), `${word}, ${percent(share).replace(".00", "")}`)));
  const pass = button("no idea", () => guess(null));
  const verdict = make("p", { class: "verdict", id: "verdict", role: "status" });
  const score = make("tbody");
  const element = make("div", { class: "view-guess" },
    text.element,
    make("div", { class: "scales" }, scaleBar({ title: "your bits", ticks: [[0, "0"], [0.5, "3"], [1, "6 or more"]] })),
    sure, make("div", { class: "controls" }, make("label", { htmlFor: "guess", textContent: whole ? "Next token, then Enter" : "Next character" }), input, ...[["\n", "newline"], [" ", "space"]].map(([token, name]) => button(name, () => guess(token))), pass),
    verdict,
    make("table", { class: "score" }, make("caption", { class: "visually-hidden", textContent: "Bits so far" }),
      make("thead", {}, make("tr", {}, ...["", "this time", `a ${app.unit} in the mean`].map((head, i) => make(i ? "th" : "td", { ...(i ? { scope: "col" } : {}), class: i ? "number" : "", textContent: head })))), score),
    make("div", { class: "controls" }, button("another text", () => load(round + 1)), button("show the rest", () => finish())),
    tools({ name: "guesses", table: () => [[app.unit, "your guess", "you", "model", "3-gram"], costs.map((cost, i) => [spoken(token(GIVEN + i)), cost.guess === null ? "–" : spoken(cost.guess), bits(cost.you), bits(cost.model), bits(cost.counter ?? NaN)])],
      json: () => costs.map((cost, i) => ({ [app.unit]: token(GIVEN + i), guess: cost.guess, bits: [cost.you, cost.model, cost.counter].map((nats) => nats / BIT) })) }).element);

  input.addEventListener("input", () => {
    if (whole) return;
    const [first] = input.value;
    input.value = "";
    if (first !== undefined) guess(first);
  });
  input.addEventListener("keydown", (event) => {
    const options = [...sure.querySelectorAll("input")];
    const now = options.findIndex((option) => option.checked);
    if (event.key === "Enter") {
      guess(input.value || "\n");
      input.value = "";
    }
    else if (event.key === "ArrowUp") options[Math.max(0, now - 1)].checked = true;
    else if (event.key === "ArrowDown") options[Math.min(2, now + 1)].checked = true;
    else if (event.key === "Escape") document.getElementById("main").focus();
    else return;
    event.preventDefault();
  });

  const token = (i) => app.model.vocabulary[game.ids[i]];

  async function load(next) {
    round = next;
    asked = true;
    try {
      game = await app.api.held_out({ seed: round });
      place = Math.min(GIVEN, game.ids.length - 1);
      [costs, at] = [[], null];
      verdict.textContent = "";
      draw();
    } catch (error) {
      verdict.textContent = error.message;
    }
  }

  function guess(given) {
    if (!game || place >= game.ids.length) return;
    const V = app.model.vocabulary.length;
    const really = token(place);
    if (given !== null && !app.ids.has(given)) {
      verdict.textContent = `The model has no ${spoken(given)}; nothing is counted.`;
      return;
    }
    const share = Number(sure.querySelector("input:checked").value);
    const you = given === null ? 1 / V : given === really ? share : (1 - share) / (V - 1);
    costs.push({ guess: given, you: -Math.log(you), model: -Math.log(game.model[place - 1]), counter: game.counter ? -Math.log(game.counter[place - 1]) : null });
    const expected = game.model_top?.[place - 1]?.slice(0, 3).map(([id, p]) => `${spoken(app.model.vocabulary[id])} ${percent(p)}`).join(", ");
    verdict.textContent = `${given === really ? "Yes" : "No"}, it is ${spoken(really)}.${expected ? ` The model gave most to ${expected}.` : ""}`;
    place += 1;
    at = null;
    if (place === game.ids.length) verdict.textContent += " That was the end of this text.";
    draw();
  }

  function finish() {
    if (!game) return;
    place = game.ids.length;
    at = null;
    verdict.textContent = "The whole text; “another text” begins anew.";
    draw();
  }

  function draw() {
    if (!game) return;
    const start = Math.min(GIVEN, game.ids.length - 1);
    text.update({
      tokens: [...Array.from({ length: place }, (_, i) => token(i)), ...(place < game.ids.length ? ["_"] : [])],
      values: Array.from({ length: place + 1 }, (_, i) => (costs[i - start] ? costs[i - start].you / BIT / TOP : null)),
      selected: Math.min(at ?? place, place < game.ids.length ? place : place - 1),
      describe: (i) => {
        const cost = costs[i - start];
        if (i === place) return ["the one to guess"];
        return cost ? [spoken(token(i)), `you ${bits(cost.you)}`, `model ${bits(cost.model)}`, ...(cost.counter === null ? [] : [`3-gram ${bits(cost.counter)}`])] : [`${spoken(token(i))}, given`];
      },
    });
    const last = costs.at(-1);
    const mean = (name) => costs.reduce((sum, cost) => sum + cost[name], 0) / costs.length;
    const names = [["you", "you"], ["model", "the model"], ...(game.counter ? [["counter", "3-gram counter"]] : [])];
    const best = last ? Math.min(...names.map(([name]) => mean(name))) : NaN;
    score.replaceChildren(...names.map(([name, says]) => make("tr", { class: mean(name) === best ? "best" : "" }, make("th", { scope: "row", textContent: says }),
      make("td", { class: "number", textContent: last ? bits(last[name]) : "–" }), make("td", { class: "number", textContent: last ? bits(mean(name)) : "–" }))));
    if (!costs.length && !verdict.textContent) verdict.textContent = `${grouped(start)} ${app.unit}s are given; what comes next?`;
  }

  function update(next) {
    app = next;
    if (asked) return;
    const { why } = app.model.text;
    if (!why || app.api.saved) load(app.state.seed);
    else verdict.textContent = `There is nothing to guess: ${why.slice(why.indexOf(":") + 2)}`;
  }

  return { element, update };
}
