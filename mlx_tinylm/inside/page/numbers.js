// Numbers as the page writes them.

export const BIT = Math.log(2); // nats

// 12.34%, 0.03%; what is smaller says so.
export function percent(p) {
  if (!Number.isFinite(p)) return "–";
  if (p > 0 && p < 0.00005) return "<0.01%";
  return `${(100 * p).toFixed(2)}%`;
}

// A loss or surprise in nats, written in bits a character.
export function bits(nats, digits = 2) {
  return Number.isFinite(nats) ? `${(nats / BIT).toFixed(digits)} bits` : "–";
}

// A difference with its sign, in bits.
export function bitsChange(nats, digits = 2) {
  if (!Number.isFinite(nats)) return "–";
  const text = (Math.abs(nats) / BIT).toFixed(digits);
  return `${Number(text) === 0 ? "±" : nats < 0 ? "−" : "+"}${text} bits`;
}

// Whole numbers with thin separators that do not break a line.
export function grouped(number) {
  return String(Math.round(number)).replace(/\B(?=(\d{3})+$)/g, "\u202f");
}

// Probabilities of one row of logits (T,V); the largest is taken off first, so that nothing overflows.
export function softmax(logits, vocabulary, row) {
  const part = logits.subarray(row * vocabulary, (row + 1) * vocabulary);
  let most = -Infinity;
  for (const value of part) most = Math.max(most, value);
  const p = Float64Array.from(part, (value) => Math.exp(value - most));
  let sum = 0;
  for (const value of p) sum += value;
  return p.map((value) => value / sum);
}

// The places of the `count` largest values, first the largest; of equals the first.
export function largest(values, count) {
  return Array.from(values.keys()).sort((a, b) => values[b] - values[a] || a - b).slice(0, count);
}

export function mean(values) {
  let sum = 0;
  let count = 0;
  for (const value of values) {
    if (Number.isFinite(value)) {
      sum += value;
      count += 1;
    }
  }
  return count ? sum / count : NaN;
}
