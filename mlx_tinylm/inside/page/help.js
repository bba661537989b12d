// The list of keys and the words with their meanings.

import { button, make } from "./canvas.js";
import { KEYS } from "./keys.js";
import { remember, remembered } from "./memory.js";
import { allWords, inUnits } from "./words.js";

export function helpDialog(app, startTour) {
  const keys = make("input", { type: "checkbox", id: "single-keys", checked: remembered("keys") !== "off" });
  const words = make("div");
  const dialog = make("dialog", { "aria-labelledby": "help-title" },
    make("h2", { id: "help-title", textContent: "Keys" }),
    make("dl", { class: "keys" }, ...KEYS.map(([key, does]) => make("div", {}, make("dt", {}, make("kbd", { textContent: key })), make("dd", { textContent: inUnits(does, app.unit) })))),
    make("p", {}, keys, make("label", { htmlFor: "single-keys", textContent: " single keys work while nothing is being typed" })),
    make("h2", { textContent: "Words" }), words,
    make("p", { class: "buttons" }, button("close", () => dialog.close()), button("take the tour", () => {
      dialog.close();
      startTour();
    })));
  app.keys = keys.checked;
  keys.addEventListener("change", () => {
    app.keys = keys.checked;
    remember("keys", keys.checked ? "on" : "off");
  });
  document.body.append(dialog);
  return () => {
    words.replaceChildren(...(app.data ? [allWords(app)] : []));
    dialog.showModal();
    dialog.scrollTop = 0;
  };
}
