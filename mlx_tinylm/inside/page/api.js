// What the page asks the program: POST, JSON out, the token in a header. A saved page answers from what it carries.

import { fromBase64, parse } from "./payload.js";

const GONE = "The program does not answer. Start it again with: mlx-tinylm play";

export function connect(token) {
  const saved = document.getElementById("saved");
  return saved ? disk(JSON.parse(saved.textContent)) : server(token);
}

function server(token) {
  async function ask(path, body, { signal } = {}) {
    let answer;
    try {
      answer = await fetch(`/api/${path}`, { method: "POST", headers: { "Content-Type": "application/json", "X-Token": token }, body: JSON.stringify(body), signal });
    } catch (error) {
      throw error.name === "AbortError" ? error : new Error(GONE);
    }
    if (answer.ok) return answer;
    const told = await answer.json().catch(() => ({}));
    throw Object.assign(new Error(told.error ?? `The program answered ${answer.status}.`), { final: answer.status === 403, status: answer.status });
  }
  const json = (path) => async (body = {}, options) => (await ask(path, body, options)).json();
  let model;
  return {
    saved: null,
    async model({ renewed } = {}) {
      if (renewed || !model) model = json("model")();
      return model;
    },
    trace: async (body, options) => parse(await (await ask("trace", body, options)).arrayBuffer()),
    surprise: json("surprise"),
    embedding: json("embedding"),
    metrics: json("metrics"),
    held_out: json("held_out"),
    async* write(body, options) {
      const reader = (await ask("write", body, options)).body.pipeThrough(new TextDecoderStream()).getReader();
      let rest = "";
      try {
        for (;;) {
          const { value, done } = await reader.read();
          if (done) return;
          const lines = (rest + value).split("\n");
          rest = lines.pop();
          for (const line of lines) {
            const found = JSON.parse(line);
            if (found.error) throw new Error(found.error);
            yield found;
          }
        }
      } finally {
        reader.cancel().catch(() => {}); // whoever stops listening ends the writing
      }
    },
  };
}

function disk(saved) {
  const data = fromBase64(saved.payload);
  const text = data.meta.prompt;
  const refuse = (what) => {
    throw Object.assign(new Error(`This page was saved with one prompt${what ? ` and without ${what}` : ""}. For any other: mlx-tinylm play`), { final: true });
  };
  const isSaved = (asked) => (asked.ids ? String(asked.ids) === String([...data.ids]) : asked.text === text);
  const snapshot = ({ run, step }) => saved.history?.[run]?.[step] ?? refuse("this snapshot");
  return {
    saved,
    model: async () => saved.model,
    async trace(asked) {
      if (!isSaved(asked)) refuse();
      if (asked.heads_off?.length) {
        const found = asked.heads_off.length === 1 && saved.heads_off?.[asked.heads_off[0].join(".")];
        return fromBase64(found || refuse("two heads off at once"));
      }
      return asked.run === undefined ? data : fromBase64(snapshot(asked).payload);
    },
    surprise: async (asked) => (asked.text === text && saved.surprise) || refuse(),
    embedding: async () => saved.embedding ?? refuse("its embedding"),
    metrics: async ({ run, from }) => {
      const found = saved.metrics?.[run] ?? refuse("the curve of this run");
      return from >= found.next ? { ...found, lines: [] } : found;
    },
    held_out: async () => saved.held_out ?? refuse("a held-out text"),
    async* write(asked) {
      if (asked.text !== text) refuse();
      if (asked.step !== undefined) yield { text: snapshot(asked).sample ?? "" };
      else yield* saved.write ?? refuse("a sample");
    },
  };
}
