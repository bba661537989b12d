// Curves of a run: raw training thin behind its smoothed line, validations as joined points, reference lines named at their right end.

import { grouped } from "./numbers.js";

const MOST_POINTS = 1000; // a curve shows no more than these; a screen has no room for others

// At most `most` of the points: of each stretch the lowest and the highest, so that no spike is lost.
export function thinned(points, most = MOST_POINTS) {
  if (points.length <= most) return points;
  const stretch = Math.ceil(points.length / Math.floor(most / 2));
  const kept = [];
  for (let first = 0; first < points.length; first += stretch) {
    let low = first;
    let high = first;
    for (let i = first; i < Math.min(first + stretch, points.length); i += 1) {
      if (points[i][1] < points[low][1]) low = i;
      if (points[i][1] > points[high][1]) high = i;
    }
    kept.push(points[Math.min(low, high)]);
    if (low !== high) kept.push(points[Math.max(low, high)]);
  }
  return kept;
}

// An exponential mean over the last steps with its start corrected, as Adam's moments are (Kingma and Ba 2015, section 3).
// Over a tenth of the steps so far at the most: the first ones fall fast, and a log axis shows them large.
export function smoothed(points, steps = 25) {
  let sum = 0;
  let weight = 0;
  let last = null;
  return points.map(([step, value]) => {
    const keep = last === null ? 0 : Math.exp(-Math.max(step - last, 0) / Math.min(steps, 1 + step / 10));
    last = step;
    sum = keep * sum + (1 - keep || 1) * value;
    weight = keep * weight + (1 - keep || 1);
    return [step, sum / weight];
  });
}

// Ticks of an axis of steps: 0, 1, 3, 10, 30 ... where it is logarithmic, else round numbers.
export function stepTicks(last, log, room) {
  if (log) {
    const ticks = [0];
    for (let power = 1; power <= last; power *= 10) ticks.push(...[power, 3 * power].filter((step) => step <= last));
    return room < 560 ? ticks.filter((step) => step === 0 || /^10*$/.test(String(step))) : ticks;
  }
  return roundTicks(0, last, Math.max(2, Math.floor(room / 110)));
}

export function roundTicks(low, high, about) {
  const rough = (high - low) / about || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const by = power * [1, 2, 5, 10].find((factor) => factor * power >= rough);
  const ticks = [];
  for (let i = Math.ceil(low / by - 1e-9); i * by <= high + by * 1e-9; i += 1) ticks.push(Number((i * by).toPrecision(12)));
  return ticks;
}

// Labels at a right end are pushed apart until none covers another; the answer has the order of `wanted` (heights in pixels).
export function apart(wanted, gap, low, high) {
  const order = wanted.map((_, i) => i).sort((a, b) => wanted[a] - wanted[b]);
  const placed = new Array(wanted.length);
  let free = low;
  for (const i of order) {
    placed[i] = Math.max(wanted[i], free);
    free = placed[i] + gap;
  }
  let limit = high;
  for (const i of order.reverse()) {
    placed[i] = Math.min(placed[i], limit);
    limit = placed[i] - gap;
  }
  return placed;
}

// series: [{name, colour, dash, raw: [[step, loss]], smooth, points, faint}]; references: [{label, value}]; marks: [{step, label}] (vertical).
export function drawCurve({ context, width, height, ratio, ink }, { series, references, log, mark, unit }) {
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  const w = width / ratio;
  const h = height / ratio;
  const narrow = w < 520;
  const size = narrow ? 11 : 12;
  context.font = `${size}px ${ink.sans}`;
  const all = series.flatMap((one) => [...one.raw, ...one.points]);
  const last = Math.max(1, ...all.map(([step]) => step));
  const values = [...all.map(([, value]) => value), ...references.map(({ value }) => value)].filter(Number.isFinite);
  const high = values.length ? Math.max(...values) : 5;
  const low = values.length ? Math.min(...values) : 0;
  const margin = (high - low) * 0.06 || 0.5;
  const ends = [...references.map(({ label }) => label), ...series.map((one) => one.end)];
  const box = { left: 34, right: Math.ceil(Math.max(30, ...ends.map((label) => context.measureText(label).width))) + 12, top: 10, bottom: 38 };
  const scaleX = log ? (step) => Math.log10(1 + step) / Math.log10(1 + last) : (step) => step / last;
  const x = (step) => box.left + scaleX(step) * (w - box.left - box.right);
  const y = (value) => box.top + ((high + margin - value) / (high - low + 2 * margin)) * (h - box.top - box.bottom);
  const bottom = h - box.bottom;

  context.lineWidth = 1;
  context.textBaseline = "middle";
  context.textAlign = "right";
  for (const value of roundTicks(low - margin, high + margin, Math.floor((bottom - box.top) / 44))) {
    line(context, ink.border, [[box.left, y(value)], [w - box.right, y(value)]], [1, 3]);
    context.fillStyle = ink.muted;
    context.fillText(String(value), box.left - 6, y(value));
  }
  context.textAlign = "center";
  let free = -Infinity;
  for (const step of stepTicks(last, log, w - box.left - box.right)) {
    line(context, ink.border, [[x(step), bottom], [x(step), bottom + 4]]);
    const half = context.measureText(grouped(step)).width / 2;
    if (x(step) - half < free + 6) continue;
    context.fillStyle = ink.muted;
    context.fillText(grouped(step), x(step), bottom + 13);
    free = x(step) + half;
  }
  context.fillStyle = ink.muted;
  context.textAlign = "left";
  context.fillText(`${unit} against the step${log ? " (log axis)" : ""}`, box.left, bottom + 30);

  for (const { value } of references) line(context, ink.muted, [[box.left, y(value)], [w - box.right, y(value)]], [5, 4]);
  if (mark !== null && mark !== undefined && mark <= last) line(context, ink.chosen, [[x(mark), box.top], [x(mark), bottom]], [], 1.5);
  for (const one of series) {
    const place = ([step, value]) => [x(step), y(value)];
    context.globalAlpha = 0.32;
    line(context, one.colour, one.raw.map(place), [], 0.75);
    context.globalAlpha = 1;
    line(context, one.colour, one.smooth.map(place), one.dash, 1.5);
    one.points.map(place).forEach((to, i, all) => {
      // On a log axis a straight line over half the picture would claim losses that nobody measured.
      if (i && to[0] - all[i - 1][0] < 0.35 * (w - box.left - box.right)) line(context, one.colour, [all[i - 1], to], one.dash, 1);
    });
    for (const point of one.points) {
      context.beginPath();
      context.arc(...place(point), series.length > 3 ? 2 : 3, 0, 2 * Math.PI);
      context.fillStyle = ink.ground;
      context.fill();
      context.strokeStyle = one.colour;
      context.setLineDash([]);
      context.lineWidth = 1.5;
      context.stroke();
    }
  }

  context.textAlign = "left";
  const labels = [
    ...references.map(({ label, value }) => ({ label, value, colour: ink.muted })),
    ...series.filter((one) => one.points.length || one.smooth.length).map((one) => ({ label: one.end, value: (one.points.at(-1) ?? one.smooth.at(-1))[1], colour: one.colour })),
  ];
  const heights = apart(labels.map(({ value }) => y(value)), size + 2, box.top + 2, bottom - 2);
  labels.forEach(({ label, value, colour }, i) => {
    line(context, colour, [[w - box.right, y(value)], [w - box.right + 8, heights[i]]]);
    context.fillStyle = colour;
    context.fillText(label, w - box.right + 10, heights[i]);
  });
  return { step: (pixel) => stepAt(pixel / ratio) };

  function stepAt(pixel) {
    const part = Math.min(Math.max((pixel - box.left) / (w - box.left - box.right), 0), 1);
    return log ? (1 + last) ** part - 1 : part * last;
  }
}

function line(context, colour, points, dash = [], width = 1) {
  context.strokeStyle = colour;
  context.lineWidth = width;
  context.setLineDash(dash);
  context.lineJoin = "round";
  context.beginPath();
  points.forEach(([x, y], i) => (i ? context.lineTo(x, y) : context.moveTo(x, y)));
  context.stroke();
}
