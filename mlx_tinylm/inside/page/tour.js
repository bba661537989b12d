// A first visit: eight stops, one thing to try at each, by keyboard alone.

import { button, make } from "./canvas.js";
import { remember, remembered } from "./memory.js";
import { VIEWS } from "./views.js";
import { inUnits } from "./words.js";

const TRY = {
  next: "Press ↑ and ↓ to choose what comes next and Enter to append it; ← and → walk through the prompt; e edits it.",
  writing: "Press Space to write and to pause, then click a written character: what else could have come, and what follows if it had?",
  surprise: "Walk through the text with ← and →: where was the model sure, and where did something else come?",
  layers: "Read the table from top to bottom: at which row does the final answer take the lead?",
  attention: "Choose a head with a name, press h to switch it off, and see whether anything changes.",
  characters: "Click a letter: vowels, capitals and marks tend to lie together, though nobody told the model what they are.",
  growing: "Move the slider from the first snapshot to the last: what is learned first?",
  guess: "Now you: type the character that you expect next, and compare your bits with the model's.",
};

export function tour(root, app) {
  const names = Object.keys(VIEWS);
  let stop = remembered("tour") ? null : -1;

  function go(to) {
    stop = to < names.length ? to : null;
    if (stop === null) remember("tour", "done");
    else app.set({ view: names[stop] });
    draw();
    (stop === null ? document.getElementById("main") : root.querySelector("button")).focus({ preventScroll: true });
  }

  function draw() {
    root.hidden = stop === null;
    if (stop === null) return;
    const end = button(stop < 0 ? "no, thanks" : "end", () => go(names.length));
    if (stop < 0) {
      root.replaceChildren(make("p", { textContent: "First time here? A tour of eight views: one sentence and one thing to try at each, with the keyboard alone." }), button("start the tour", () => go(0)), end);
      return;
    }
    const last = stop === names.length - 1;
    root.replaceChildren(make("p", {}, make("b", { textContent: `${stop + 1} of 8. ` }), inUnits(TRY[names[stop]], app.unit)),
      button(last ? "done" : `next: ${inUnits(VIEWS[names[stop + 1]].title, app.unit)}`, () => go(stop + 1)), ...(last ? [] : [end]));
  }
  draw();
  return { start: () => go(0) };
}
