// The words that need a meaning: each in one sentence, with an example from the reader's own prompt.

import { make } from "./canvas.js";
import { bits, grouped, largest, mean, percent, softmax } from "./numbers.js";
import { spoken } from "./text_data.js";

// Where each appears first.
const FIRST = {
  next: ["character", "id", "context", "probability", "surprise"], writing: ["draw"], surprise: ["loss"], layers: ["layer"],
  attention: ["attention", "head"], characters: ["embedding"], growing: ["step"], guess: ["bit"],
};

function meanings(app) {
  const { data, state, unit, model: { model } } = app;
  const V = data.meta.vocabulary.length;
  const place = Math.min(state.position, data.ids.length - 1);
  const here = spoken(data.meta.vocabulary[data.ids[place]]);
  const p = softmax(data.logits, V, place);
  const [best] = largest(p, 1);
  const first = spoken(data.meta.vocabulary[best]);
  const so = `${grouped(place + 1)} ${unit}${place ? "s" : ""}`;
  return {
    character: `What the model reads and writes, one at a time${unit === "token" ? ", here a piece of text, called a token" : ""}. Your prompt has ${grouped(data.ids.length)}; the chosen one is ${here}.`,
    id: `The number that stands for ${unit === "token" ? "a token" : "a character"}: ${here} is ${data.ids[place]}, one of ${grouped(V)}. The model computes with numbers only.`,
    context: `What is read before the answer: here the ${so} up to ${here}, at most ${grouped(model.context)}.`,
    probability: `The share of 100% that one next ${unit} gets: after ${here}, ${first} gets ${percent(p[best])}, and all ${grouped(V)} get 100% together.`,
    surprise: place && Number.isFinite(data.surprise[place])
      ? `How little a ${unit} was expected, in bits: ${here} had ${percent(Math.exp(-data.surprise[place]))} and so ${bits(data.surprise[place])}. One bit is a coin toss, 0 bits is certain.`
      : `How little a ${unit} was expected, in bits: one that had 50% has 1 bit, as a coin toss; one that had 100% has 0.`,
    draw: `The next ${unit} is drawn by chance, each as often as its probability says: ${first} in ${percent(p[best])} of the cases. The same seed, a number, draws the same again.`,
    loss: `The mean surprise: ${bits(mean(data.surprise))} a ${unit} over your prompt${model.loss ? `, ${bits(model.loss)} over text that it was not trained on` : ""}. Guessing evenly would be ${bits(Math.log(V))}.`,
    layer: `One round of computing that adds to the numbers of every ${unit}: those of ${here} pass through ${grouped(model.layers)}, one after another.`,
    attention: `A weighted look back: at ${here} the model adds up numbers from the ${so} so far, each times its weight.`,
    head: `One such look with weights of its own: ${grouped(model.heads)} in each of ${grouped(model.layers)} layers, so ${grouped(model.heads * model.layers)} at every ${unit} of your prompt.`,
    embedding: `The row of numbers that a ${unit} starts as: ${here} is row ${data.ids[place]} of a table, ${grouped(model.width)} numbers long.`,
    step: `One small change of all ${grouped(model.parameters)} numbers of the model, so that the text it was shown, such as ${first} after ${here}, gets a little likelier.`,
    bit: `One bit is one halving: 50% is 1 bit, 25% is 2, 12.5% is 3. Guessing evenly among ${grouped(V)} costs ${bits(Math.log(V))}.`,
  };
}

const list = (names, found) => make("dl", { class: "words" }, ...names.map((name) => make("div", {}, make("dt", { textContent: name }), make("dd", { textContent: found[name] }))));

export function wordsOf(view, app) {
  return list(FIRST[view], meanings(app));
}

export function allWords(app) {
  return list(Object.values(FIRST).flat(), meanings(app));
}

// A sentence about characters, for a model whose units are tokens as well.
export function inUnits(text, unit) {
  return unit === "token" ? text.replace(/character/g, "token").replace(/Character/g, "Token") : text;
}

export function namesOf(view) {
  return FIRST[view].join(", ");
}
