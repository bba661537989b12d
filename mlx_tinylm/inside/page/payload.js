// The payload that mlx_tinylm/inside/payload.py documents: safetensors bytes -> typed arrays, their shapes, and `meta`.

const VERSION = "1";
const KINDS = { F32: Float32Array, I32: Int32Array, U8: Uint8Array };

export function parse(buffer) {
  const size = Number(new DataView(buffer).getBigUint64(0, true));
  const { __metadata__: metadata, ...tensors } = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 8, size)));
  if (metadata?.mlx_tinylm !== VERSION) throw new Error("This page and the program are of different versions: load the page again.");
  const data = { shape: {}, meta: JSON.parse(metadata.json) };
  for (const [name, { dtype, shape, data_offsets: [start, end] }] of Object.entries(tensors)) {
    const Kind = KINDS[dtype];
    const at = 8 + size + start;
    const aligned = at % Kind.BYTES_PER_ELEMENT === 0;
    data[name] = aligned ? new Kind(buffer, at, (end - start) / Kind.BYTES_PER_ELEMENT) : new Kind(buffer.slice(at, 8 + size + end));
    data.shape[name] = shape;
  }
  return data;
}

// For a saved page, which carries its payloads as text.
export function fromBase64(text) {
  return parse(Uint8Array.from(atob(text), (character) => character.charCodeAt(0)).buffer);
}
