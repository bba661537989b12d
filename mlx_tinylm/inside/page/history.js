// What the snapshots of a run make of one prompt: fetched once, all of them, so that the slider needs no request.

export const SAMPLE = 200; // characters that each snapshot writes

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
      for (const step of steps) {
        const { logits, surprise } = await api.trace({ ids: [...ids], run, step, parts: ["logits", "surprise"] }, { signal });
        if (mine !== key) return;
        const snapshot = { logits, surprise, sample: null };
        self.of.set(step, snapshot);
        changed();
        let sample = "";
        for await (const piece of api.write({ text, settings, seed, tokens: SAMPLE, run, step }, { signal })) sample += piece.text ?? "";
        if (mine !== key) return;
        snapshot.sample = sample;
        changed();
      }
    } catch (error) {
      if (error.name === "AbortError" || mine !== key) return;
      self.failed = error.message;
      changed();
    }
  }
  return self;
}
