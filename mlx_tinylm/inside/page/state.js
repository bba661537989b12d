// What is seen, as the URL's fragment: #TOKEN&view=next&prompt=... A link reproduces it; back and forward work.

// How text is drawn, with what means "off" as null; the names are those of mlx_tinylm/sampling.py.
export const SETTINGS = { temperature: 0.8, top_k: null, top_p: null, min_p: null, repetition_penalty: null };
const LATER = 300; // ms: browsers refuse addresses that change too often

export function parse(fragment) {
  const [token, ...rest] = fragment.replace(/^#/, "").split("&");
  const found = new URLSearchParams(rest.join("&"));
  const number = (name, otherwise) => {
    const value = found.get(name);
    return value === null || value === "" || !Number.isFinite(Number(value)) ? otherwise : Number(value);
  };
  const head = /^(\d+)\.(\d+)$/.exec(found.get("head") ?? "");
  const settings = {};
  for (const name of Object.keys(SETTINGS)) settings[name] = found.get(name) === "off" ? null : number(name, SETTINGS[name]);
  return {
    token,
    state: {
      view: found.get("view") ?? "next",
      prompt: found.get("prompt"), // null: the model's own example
      position: found.has("at") ? Math.max(0, Math.floor(number("at", 0))) : null, // null: the last
      head: head && [Number(head[1]), Number(head[2])],
      settings,
      seed: Math.max(0, Math.floor(number("seed", 0))),
    },
  };
}

export function format(token, state) {
  const parts = new URLSearchParams({ view: state.view });
  if (state.prompt !== null) parts.set("prompt", state.prompt);
  if (state.position !== null) parts.set("at", state.position);
  if (state.head) parts.set("head", state.head.join("."));
  for (const [name, value] of Object.entries(state.settings)) if (value !== SETTINGS[name]) parts.set(name, value ?? "off");
  if (state.seed) parts.set("seed", state.seed);
  return `#${token}&${parts}`;
}

// Keeps the address up to date: a step that "back" should undo is pushed at once, the rest is written a little later.
export function address(token) {
  let waiting = 0;
  const write = (state, push) => {
    clearTimeout(waiting);
    waiting = 0;
    const url = format(token, state);
    if (url !== location.hash) history[push ? "pushState" : "replaceState"](null, "", url);
  };
  return {
    flush: (state) => waiting && write(state, false),
    push: (state) => write(state, true),
    replace: (state) => {
      clearTimeout(waiting);
      waiting = setTimeout(write, LATER, state, false);
    },
  };
}
