import { kept } from "../kept.js";

export const title = "Surprise";
export const promise = "which characters were not expected";
export const codeId = "surprise";
export const above = "To come.";
export const below = "To come.";
export const render = kept(() => ({ element: document.createElement("div"), update() {} }));
