// Attention as a lower triangle: row i is who looks, its i + 1 weights are at whom; the future is not there at all.

export function rowStart(row) {
  return (row * (row + 1)) / 2;
}

// The weights of one head, (T*(T+1)/2,), u8 of 255ths.
export function headOf(attention, heads, length, layer, head) {
  const size = rowStart(length);
  return attention.subarray((layer * heads + head) * size, (layer * heads + head + 1) * size);
}

// The mean over all heads as weights 0..1.
function meanOf(attention, length) {
  const size = rowStart(length);
  const count = attention.length / size;
  const sum = new Float32Array(size);
  for (let at = 0; at < attention.length; at += size) for (let i = 0; i < size; i += 1) sum[i] += attention[at + i];
  return sum.map((value) => value / (255 * count));
}

const means = new WeakMap();

// The weights of one head [layer, head] or, without one, the mean of all: {weights, unit} with weight = weights[i] * unit.
export function weightsOf(data, head) {
  if (head) return { weights: headOf(data.attention, data.meta.model.heads, data.ids.length, ...head), unit: 1 / 255 };
  if (!means.has(data)) means.set(data, meanOf(data.attention, data.ids.length));
  return { weights: means.get(data), unit: 1 };
}

// The shown scale of a weight: its square root, so that 1% can be told from nothing.
export function shade(weight) {
  return Math.sqrt(weight);
}

export const TICKS = [[0, "0%"], [shade(0.05), "5%"], [shade(0.25), "25%"], [shade(0.5), "50%"], [1, "100%"]];

function geometry(length, side) {
  const cell = Math.max(1, Math.min(Math.floor(side / length), 40));
  const share = Math.ceil(length / side);
  return { cell, share, drawn: Math.ceil(length / share) * cell };
}

// How many of `side` pixels a triangle of `length` rows takes.
export function triangleSide(length, side) {
  return geometry(length, side).drawn;
}

// Draw 255ths into an ImageData of `side` x `side` pixels at the most: whole pixels a weight, the largest of those that share a pixel;
// above the diagonal nothing. `colours` is a palette.
export function triangleImage(weights, length, side, colours) {
  const { cell, share, drawn } = geometry(length, side);
  const image = new ImageData(drawn, drawn);
  const pixels = new Uint32Array(image.data.buffer);
  const most = new Uint8Array(Math.ceil(length / share));
  const line = new Uint32Array(drawn);
  for (let y = 0, row = 0; row < length; y += 1, row += share) {
    most.fill(0);
    for (let i = row; i < Math.min(row + share, length); i += 1) {
      for (let j = 0, at = rowStart(i); j <= i; j += 1, at += 1) {
        const x = share === 1 ? j : (j / share) | 0;
        if (weights[at] > most[x]) most[x] = weights[at];
      }
    }
    for (let x = 0, at = 0; x <= y; x += 1) for (let end = at + cell; at < end; at += 1) line[at] = colours[most[x]];
    for (let i = 0; i < cell; i += 1) pixels.set(line, (y * cell + i) * drawn);
  }
  return { image, cell, share, side: drawn };
}

// A table of 256 colours for weights: as the pixels of an ImageData (little-endian), from a function 0..1 -> [r, g, b].
export function palette(colour) {
  return Uint32Array.from({ length: 256 }, (_, i) => {
    const [red, green, blue] = colour(shade(i / 255));
    return (255 << 24) | (blue << 16) | (green << 8) | red;
  });
}
