import { kept } from "../kept.js";

export const title = "Writing";
export const promise = "text, one character a time";
export const codeId = "writing";
export const above = "To come.";
export const below = "To come.";
export const render = kept(() => ({ element: document.createElement("div"), update() {} }));
