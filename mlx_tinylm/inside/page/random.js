// NumPy's default generator, so that a seed draws on this page what it draws in the program: PCG64 (O'Neill 2014),
// seeded by numpy.random.SeedSequence (after O'Neill 2015, "Developing a seed_seq alternative").

const MASK = (1n << 128n) - 1n;
const MULTIPLIER = 0x2360ed051fc65da44385df649fccf645n;

function seedWords(seed) {
  const entropy = [seed % 2 ** 32, Math.floor(seed / 2 ** 32), 0, 0];
  let constant = 0x43b0d7e5;
  const hash = (value) => {
    let mixed = value ^ constant;
    constant = Math.imul(constant, 0x931e8875);
    mixed = Math.imul(mixed, constant);
    return mixed ^ (mixed >>> 16);
  };
  const pool = entropy.map(hash);
  for (let from = 0; from < 4; from += 1) {
    for (let to = 0; to < 4; to += 1) {
      if (from === to) continue;
      const mixed = Math.imul(0xca01f9dd, pool[to]) - Math.imul(0x4973f715, hash(pool[from]));
      pool[to] = mixed ^ (mixed >>> 16);
    }
  }
  constant = 0x8b51f9dd;
  return Array.from({ length: 8 }, (_, i) => {
    let mixed = pool[i % 4] ^ constant;
    constant = Math.imul(constant, 0x58f38ded);
    mixed = Math.imul(mixed, constant);
    return BigInt((mixed ^ (mixed >>> 16)) >>> 0);
  });
}

// The first number that numpy.random.default_rng(seed).random(dtype=float32) gives.
export function firstDraw(seed) {
  const word = seedWords(seed);
  const wide = (i) => (((word[i + 1] << 32n) | word[i]) << 64n) | (word[i + 3] << 32n) | word[i + 2];
  const increment = ((wide(4) << 1n) | 1n) & MASK;
  let state = (increment + wide(0)) & MASK;
  for (let i = 0; i < 2; i += 1) state = (state * MULTIPLIER + increment) & MASK;
  const mixed = BigInt.asUintN(64, (state >> 64n) ^ state);
  const turn = state >> 122n;
  const bits = BigInt.asUintN(32, (mixed >> turn) | (mixed << (64n - turn)));
  return Number(bits >> 8n) / 2 ** 24;
}
