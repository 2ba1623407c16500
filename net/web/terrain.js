// The land: a heightfield computed from the world's seed, bit for bit the one of `sim/src/terrain/mod.rs`.
//
// Integer value noise in four octaves. 32-bit mixing uses Math.imul and `>>>`; products go up to 2^48, so they are plain
// numbers, shifted right by dividing and rounding down.

/** Octaves: log2 of the lattice's side in millimetres, and the amplitude in millimetres. */
const OCTAVES = [
  [18, 40_000],
  [16, 12_000],
  [14, 2_500],
  [12, 400],
];

/** Subtracted from the sum of the octaves, millimetres: the sea is at height 0. */
const SEA_OFFSET_MM = 18_000;

/** The land of one world. */
export class Terrain {
  #octaveSeeds;

  /** @param {bigint} seed the world's 64-bit seed */
  constructor(seed) {
    const low = Number(BigInt.asUintN(32, seed));
    const high = Number(BigInt.asUintN(32, seed >> 32n));
    const turned = (high << 16) | (high >>> 16);
    this.#octaveSeeds = OCTAVES.map((_, number) => low ^ turned ^ Math.imul(number, 0x9e37_79b9));
  }

  /** Height of the ground at (`x`, `z`), all in whole millimetres; from −18,000 to 36,900. */
  height(x, z) {
    let sum = 0;
    for (let number = 0; number < OCTAVES.length; number += 1) {
      const [shift, amplitude] = OCTAVES[number];
      sum += Math.floor((octave(this.#octaveSeeds[number], x, z, shift) * amplitude) / 65_536);
    }
    return sum - SEA_OFFSET_MM;
  }
}

/** 32-bit mix of a lattice point, 0..65,536. */
function lattice(seed, x, z) {
  let h = seed ^ Math.imul(x, 0x9e37_79b1) ^ Math.imul(z, 0x85eb_ca77);
  h ^= h >>> 15;
  h = Math.imul(h, 0x2c1b_3c6d);
  h ^= h >>> 12;
  h = Math.imul(h, 0x297a_2d39);
  h ^= h >>> 15;
  return h >>> 16;
}

/** One octave of value noise, 0..65,536. */
function octave(seed, x, z, shift) {
  const cellX = x >> shift;
  const cellZ = z >> shift;
  const tx = smooth(fraction(x, shift));
  const tz = smooth(fraction(z, shift));
  const north = mix(lattice(seed, cellX, cellZ), lattice(seed, cellX + 1, cellZ), tx);
  const south = mix(lattice(seed, cellX, cellZ + 1), lattice(seed, cellX + 1, cellZ + 1), tx);
  return mix(north, south, tz);
}

/** The place inside the lattice cell, 0..65,536. */
function fraction(value, shift) {
  const inside = value & ((1 << shift) - 1);
  return shift >= 16 ? inside >> (shift - 16) : inside << (16 - shift);
}

/** Perlin's 3t² − 2t³ in 16-bit fixed point. */
function smooth(f) {
  return Math.floor((f * f * (196_608 - 2 * f)) / 4_294_967_296);
}

function mix(a, b, t) {
  return a + Math.floor(((b - a) * t) / 65_536);
}
