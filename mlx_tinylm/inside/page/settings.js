// How the next character is drawn: five sliders, each off at one end.

import { button, make } from "./canvas.js";
import { SETTINGS } from "./state.js";

const MOST_K = 200;
let panels = 0; // so that two on one page have ids of their own

// read: slider -> setting, null for off; show: setting -> slider.
function rows(V) {
  const most = Math.min(V, MOST_K + 1);
  return [
    { name: "temperature", title: "temperature", min: 0, max: 2, step: 0.05, off: NaN, none: "", says: "below 1 the likely gets likelier, above 1 all get more alike; 0 takes the likeliest" },
    { name: "top_k", title: "top-k", min: 1, max: most, step: 1, off: most, none: "all", says: "keeps the k likeliest" },
    { name: "top_p", title: "top-p", min: 0.01, max: 1, step: 0.01, off: 1, none: "all", says: "keeps the likeliest that reach p together" },
    { name: "min_p", title: "min-p", min: 0, max: 1, step: 0.01, off: 0, none: "all", says: "cuts what is less than p times as likely as the likeliest" },
    { name: "repetition_penalty", title: "repetition penalty", min: 1, max: 2, step: 0.05, off: 1, none: "none", says: "above 1: what stood in the last 20 gets less likely" },
  ];
}

export function settingsPanel(app) {
  panels += 1;
  const parts = rows(app.model.vocabulary.length).map((row) => {
    const id = `${row.name}-${panels}`;
    const input = make("input", { type: "range", id, min: row.min, max: row.max, step: row.step, "aria-describedby": `${id}-says` });
    const output = make("output", { htmlFor: id });
    input.addEventListener("input", () => {
      const value = Number(input.value);
      app.set({ settings: { ...app.state.settings, [row.name]: value === row.off ? null : value } });
    });
    const element = make("div", { class: "setting" }, make("label", { htmlFor: id, textContent: row.title }), output, input, make("small", { id: `${id}-says`, textContent: row.says }));
    return { row, input, output, element };
  });
  const reset = button("as at the start", () => app.set({ settings: { ...SETTINGS } }));
  const element = make("fieldset", { class: "settings" }, make("legend", { textContent: "How it is drawn" }), ...parts.map((part) => part.element), reset);

  function update() {
    for (const { row, input, output } of parts) {
      const value = app.state.settings[row.name];
      const place = String(value ?? row.off);
      if (input.value !== place) input.value = place;
      output.textContent = value === null ? row.none : row.step === 1 ? String(value) : value.toFixed(2);
      input.setAttribute("aria-valuetext", output.textContent);
    }
    reset.disabled = Object.keys(SETTINGS).every((name) => app.state.settings[name] === SETTINGS[name]);
  }
  return { element, update };
}
