// Logits to the next id, as mlx_tinylm/sampling.py does it: the same filters in the same order, in float32 where it is.

const LOOK_BACK = 20; // ids that the repetition penalty looks at
const LARGEST = 3.4028234663852886e38; // of float32
export const FILTERS = ["top_k", "top_p", "min_p"];

// (V,) -> probabilities (V,), summing to 1.
export function probabilities(logits) {
  let most = -Infinity;
  for (const value of logits) most = Math.max(most, value);
  const weights = Float32Array.from(logits, (value) => Math.exp(Math.fround(value - most)));
  let sum = 0;
  for (const value of weights) sum += value;
  return weights.map((value) => value / Math.fround(sum));
}

// What each id is drawn with, and by which filter it was cut: {p: (V,), cut: name or null for each id}.
export function distribution(given, settings, recent, suppressed) {
  let logits = Float32Array.from(given);
  const cut = Array(logits.length).fill(null);
  for (const id of suppressed) {
    logits[id] = -Infinity;
    cut[id] = "never";
  }
  if (settings.repetition_penalty !== null) logits = penalise(logits, recent.slice(-LOOK_BACK), settings.repetition_penalty);
  if (settings.temperature === 0) {
    const best = logits.indexOf(Math.max(...logits));
    return { p: Float32Array.from(logits, (_, id) => Number(id === best)), cut: cut.map((name, id) => name ?? (id === best ? null : "temperature")) };
  }
  const most = Math.max(...logits);
  logits = logits.map((value) => (value - most) / settings.temperature);
  for (const name of FILTERS) {
    if (settings[name] === null) continue;
    const stays = KEEP[name](logits, settings[name]);
    logits = logits.map((value, id) => {
      if (stays(id)) return value;
      cut[id] ??= name;
      return -Infinity;
    });
  }
  return { p: probabilities(logits), cut };
}

// The id on which a draw u in [0, 1) falls, by the inverse of the distribution function.
export function draw(p, u) {
  let total = 0;
  for (const value of p) total += value;
  let sum = 0;
  let last = 0;
  for (let id = 0; id < p.length; id += 1) {
    sum += p[id];
    if (sum > u * total) return id;
    if (p[id] > 0) last = id;
  }
  return last;
}

function penalise(logits, recent, penalty) {
  const result = logits.slice();
  for (const id of recent) {
    if (logits[id] === -Infinity) continue;
    const score = logits[id] > 0 ? logits[id] / penalty : logits[id] * penalty;
    result[id] = Math.min(Math.max(score, -LARGEST), LARGEST);
  }
  return result;
}

// The likeliest first; of equals the first.
const ranked = (logits) => Array.from(logits.keys()).sort((a, b) => (logits[a] === logits[b] ? a - b : logits[b] - logits[a]));

const KEEP = {
  top_k(logits, k) {
    const kept = new Set(ranked(logits).slice(0, k));
    return (id) => kept.has(id);
  },
  top_p(logits, p) {
    const order = ranked(logits);
    const chances = probabilities(logits);
    let total = 0;
    const cumulative = order.map((id) => (total += chances[id]));
    const last = cumulative.findIndex((sum) => sum >= p * total);
    const kept = new Set(order.slice(0, last < 0 ? order.length : last + 1));
    return (id) => kept.has(id);
  },
  min_p(logits, p) {
    const chances = probabilities(logits);
    const least = Math.fround(Math.fround(p) * Math.max(...chances));
    return (id) => chances[id] >= least;
  },
};
