// A page around one view, with a made-up model: what it is asked for is counted, and what it answers can be set.

const VOCABULARY = ["\n", " ", ..."abcdefghijklmnopqrstuvwxyz"];

export function makeApp(view, { text = "the cat and the cat\n", layers = 2, heads = 2, unit = "character" } = {}) {
  const ids = Int32Array.from(text, (character) => VOCABULARY.indexOf(character));
  const [T, V, S] = [ids.length, VOCABULARY.length, 1 + 2 * layers];
  const row = T * (T + 1) / 2;
  // How sure the made-up model is of what really comes: 0 for guessing.
  const reading = (sure) => {
    const logits = new Float32Array(T * V);
    for (let t = 0; t + 1 < T; t += 1) logits[t * V + ids[t + 1]] = sure;
    const surprise = Float32Array.from(ids, (_, t) => (t ? Math.log(Math.exp(sure) + V - 1) - sure : NaN));
    return { ids, logits, surprise };
  };
  const attention = new Uint8Array(layers * heads * row);
  for (let head = 0; head < layers * heads; head += 1) for (let t = 0; t < T; t += 1) attention[head * row + t * (t + 1) / 2 + Math.max(t - head, 0)] = 255;
  const lens = { rank: new Int32Array(S * T), ranks: new Uint8Array(S * T * V), top: new Int32Array(S * T * 5), p: new Float32Array(S * T * 5) };
  for (let stage = 0; stage < S; stage += 1) {
    for (let t = 0; t < T; t += 1) {
      const following = t + 1 < T ? ids[t + 1] : 0;
      for (let id = 0; id < V; id += 1) lens.ranks[(stage * T + t) * V + id] = (id - following + V + S - 1 - stage) % V;
      lens.rank[stage * T + t] = t + 1 < T ? S - 1 - stage : -1;
      for (let i = 0; i < 5; i += 1) {
        lens.top[(stage * T + t) * 5 + i] = (following + i + stage + 1 - S + V) % V;
        lens.p[(stage * T + t) * 5 + i] = 0.5 / 2 ** i;
      }
    }
  }
  const app = {
    state: { view, prompt: text, position: 4, head: null, settings: {}, seed: 0 },
    unit,
    asked: [],
    runs: [{ name: "run-1", steps: [0, 1, 10, 100] }],
    lines: [],
    live: false,
    refuse: null,
    data: { ...reading(6), attention, lens_rank: lens.rank, lens_ranks: lens.ranks, lens_top: lens.top, lens_top_p: lens.p,
      meta: { prompt: text, vocabulary: VOCABULARY, model: { layers, heads, unit }, heads: [{ layer: 0, head: 1, name: "previous", score: 0.91 }] } },
    set(change) {
      Object.assign(app.state, change);
      app.render();
    },
    api: {
      async trace({ step, heads_off: off }) {
        app.asked.push(`trace ${step ?? JSON.stringify(off)}`);
        if (app.refuse) throw new Error(app.refuse);
        return reading(off ? 6 - off.length - off[0][0] : Math.log2(1 + step));
      },
      async* write({ step }) {
        app.asked.push(`write ${step}`);
        yield { text: `written after ${step} <b>steps</b>` };
      },
      async embedding() {
        app.asked.push("embedding");
        const others = (id) => [1, 2, 3].map((by) => (id + by) % V);
        return { neighbours: VOCABULARY.map((_, id) => others(id)), cosine: VOCABULARY.map(() => [0.9, 0.5, 0.25]),
          plane: VOCABULARY.map((_, id) => [Math.cos(id), Math.sin(id)]), variance: [0.3, 0.2] };
      },
      async model() {
        app.asked.push("model");
        return { runs: app.runs };
      },
      async metrics({ from }) {
        if (app.refuse) throw new Error(app.refuse);
        return { lines: app.lines.slice(from), next: app.lines.length, live: app.live, restarted: false };
      },
    },
  };
  return app;
}

export async function show(name, given) {
  const view = await import(`/views/${name}.js`);
  const main = document.body.appendChild(document.createElement("main"));
  const app = makeApp(name, given);
  for (const [tag, text] of [["h1", view.title], ["p", view.above]]) main.appendChild(document.createElement(tag)).textContent = text;
  const root = main.appendChild(document.createElement("div"));
  main.appendChild(document.createElement("p")).textContent = view.below;
  app.render = () => view.render(root, app);
  window.app = app;
  return app;
}
