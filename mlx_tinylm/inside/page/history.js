// What the snapshots of a run make of one prompt: fetched once, all of them, so that the slider needs no request.

const SAMPLE = 200; // characters that each snapshot writes
const LATER = 250; // ms: while a prompt is being typed nothing is asked for

// `changed()` is called as each arrives. `want({run, steps, ids, text, settings, seed})` begins anew where these differ.
export function snapshots(api, changed) {
  let key = "";
  let stop = new AbortController();
  const self = { of: new Map(), failed: "", done: 0, want };

  function want(wanted) {
    const next = JSON.stringify([wanted.run, [...wanted.ids], wanted.settings, wanted.seed]);
    if (next !== key) {
      stop.abort();
      stop = new AbortController();
      key = next;
      self.of = new Map();
      self.failed = "";
    }
    const missing = wanted.steps.filter((step) => !self.of.has(step));
    if (!missing.length) return;
    for (const step of missing) self.of.set(step, null);
    fetchAll(missing, wanted, key, stop.signal);
  }

  async function fetchAll(steps, { run, ids, text, settings, seed }, mine, signal) {
    try {
      await new Promise((done) => setTimeout(done, LATER));
      for (const step of steps) {
        if (mine !== key) return;
        const { logits, surprise } = await api.trace({ ids: [...ids], run, step, parts: ["logits", "surprise"] }, { signal });
        if (mine !== key) return;
        self.of.set(step, { logits, surprise, sample: null });
        changed();
      }
      for (const step of steps) { // samples take longer: bars and surprise of all snapshots come before them
        let sample = "";
        for await (const piece of api.write({ text, settings, seed, tokens: SAMPLE, run, step }, { signal })) sample += piece.text ?? "";
        if (mine !== key) return;
        self.of.get(step).sample = sample;
        changed();
      }
    } catch (error) {
      if (error.name === "AbortError" || mine !== key) return;
      self.failed = error.message;
      for (const step of steps) if (!self.of.get(step)) self.of.delete(step);
      changed();
    }
  }
  return self;
}
