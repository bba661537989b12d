import { kept } from "../kept.js";

export const title = "Next character";
export const promise = "what comes next, and why";
export const codeId = "next";
export const above = "To come.";
export const below = "To come.";
export const render = kept(() => ({ element: document.createElement("div"), update() {} }));
