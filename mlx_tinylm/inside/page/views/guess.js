import { kept } from "../kept.js";

export const title = "Guess";
export const promise = "you against model and counter";
export const codeId = "guess";
export const above = "To come.";
export const below = "To come.";
export const render = kept(() => ({ element: document.createElement("div"), update() {} }));
