// Single keys, where nothing is being typed. Each has a button or a link of its own as well, and all can be switched off.

import { VIEWS } from "./views.js";

export const KEYS = [
  ["1 to 8", "the views"],
  ["← →", "the position in the prompt"],
  ["↑ ↓", "the candidates for what comes next"],
  ["Enter", "append the chosen candidate"],
  ["Backspace", "remove the last character"],
  ["Space", "write or pause"],
  ["h", "switch the chosen head off or on"],
  ["t", "the picture as a table"],
  ["e", "edit the prompt; Esc leaves it"],
  ["?", "this list"],
];
const NATIVE = { Enter: "a[href], button, summary, select, input", " ": "a[href], button, summary, select, input", arrows: "select, input, [role=slider], [role=region]" };

export function listen(app, { edit, help, root }) {
  document.addEventListener("keydown", (event) => {
    const { key, target } = event;
    if (!app.keys || event.altKey || event.ctrlKey || event.metaKey || event.defaultPrevented || document.querySelector("dialog[open]")) return;
    if (target.matches("textarea, input:not([type=range], [type=checkbox], [type=radio]), [contenteditable]")) return;
    if (target.matches(NATIVE[key] ?? (key.startsWith("Arrow") ? NATIVE.arrows : "select:not(*)"))) return;
    if (act(key)) event.preventDefault();
  });

  function act(key) {
    const view = VIEWS[app.state.view];
    if (view.onKey?.(key, app, root())) return true;
    const own = key.startsWith("Arrow") && root()?.querySelector("[data-arrows]"); // a view's own text takes them first
    if (own && !own.dispatchEvent(new KeyboardEvent("keydown", { key, cancelable: true }))) return true;
    const number = Number(key);
    if (number >= 1 && number <= 8) app.set({ view: Object.keys(VIEWS)[number - 1] });
    else if (key === "ArrowLeft") app.set({ position: Math.max(0, app.state.position - 1) });
    else if (key === "ArrowRight") app.set({ position: Math.min(app.length() - 1, app.state.position + 1) });
    else if (key === "Backspace") app.removeLast();
    else if (key === "?") help();
    else if (key === "e") edit();
    else if (key === "h") return press('[data-key="h"]');
    else if (key === " ") return press('[data-key=" "]');
    else if (key === "t") return press("details.twin > summary");
    else return false;
    return true;
  }

  function press(selector) {
    const found = root()?.querySelector(selector);
    found?.click();
    return Boolean(found);
  }
}
