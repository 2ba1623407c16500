// Paints the terrain: one picture per chunk (32 m), in three grades of detail, each computed when first needed and kept while
// it is used. Colour comes from height, light from the slope (north-west), and the borders between kinds of ground are
// frayed by noise so that they do not look like contour lines.

import { chunkKey } from './view.js';
import { CHUNK_MM } from './wire.js';

const CHUNK_M = CHUNK_MM / 1_000;
/** Ground colours by height in metres; between two, colours blend. */
const RAMP = [
  [-18, 16, 42, 66],
  [-9, 22, 66, 94],
  [-4, 32, 96, 120],
  [-1.5, 54, 134, 146],
  [-0.4, 104, 178, 174],
  [-0.1, 158, 208, 194],
  [0.14, 224, 213, 172],
  [0.7, 216, 198, 146],
  [1.2, 172, 178, 108],
  [2.4, 134, 166, 84],
  [6, 116, 154, 76],
  [10, 92, 138, 70],
  [14, 74, 119, 64],
  [18, 72, 108, 66],
  [20.5, 104, 112, 88],
  [23, 126, 122, 112],
  [27, 150, 146, 140],
  [29, 206, 210, 214],
  [31, 236, 240, 244],
  [37, 250, 252, 254],
];
const LUT_STEP_M = 0.01;
const LUT = rampTable();

function rampTable() {
  const first = RAMP[0][0];
  const count = Math.ceil((RAMP.at(-1)[0] - first) / LUT_STEP_M) + 1;
  const table = new Float32Array(count * 3);
  for (let i = 0, r = 0; i < count; i += 1) {
    const height = first + i * LUT_STEP_M;
    while (r < RAMP.length - 2 && height > RAMP[r + 1][0]) r += 1;
    const [from, to] = [RAMP[r], RAMP[r + 1]];
    const t = Math.min(1, Math.max(0, (height - from[0]) / (to[0] - from[0])));
    for (let c = 0; c < 3; c += 1) table[i * 3 + c] = from[c + 1] + (to[c + 1] - from[c + 1]) * t;
  }
  return table;
}

function lutIndex(heightM) {
  const i = Math.round((heightM - RAMP[0][0]) / LUT_STEP_M);
  return Math.max(0, Math.min(LUT.length / 3 - 1, i)) * 3;
}

/** A number in 0..1 that depends on a place only. */
export function placeNoise(x, z, salt) {
  let h = Math.imul(x, 0x9e3779b1) ^ Math.imul(z, 0x85ebca77) ^ Math.imul(salt, 0xc2b2ae3d);
  h = Math.imul(h ^ (h >>> 15), 0x2c1b3c6d);
  h = Math.imul(h ^ (h >>> 12), 0x297a2d39);
  return ((h ^ (h >>> 15)) >>> 0) / 4_294_967_296;
}

/** Smooth noise in −1..1 with features of `side` metres. */
function softNoise(x, z, side, salt) {
  const fx = x / side;
  const fz = z / side;
  const ix = Math.floor(fx);
  const iz = Math.floor(fz);
  const ease = (t) => t * t * (3 - 2 * t);
  const tx = ease(fx - ix);
  const tz = ease(fz - iz);
  const at = (dx, dz) => placeNoise(ix + dx, iz + dz, salt);
  const north = at(0, 0) + (at(1, 0) - at(0, 0)) * tx;
  const south = at(0, 1) + (at(1, 1) - at(0, 1)) * tx;
  return (north + (south - north) * tz) * 2 - 1;
}

function makeCanvas(width, height) {
  const canvas = document.createElement('canvas');
  canvas.width = width;
  canvas.height = height;
  return canvas;
}

/** Tiles of one world's land. */
export class Land {
  #terrain;
  #tiles = { mini: new Map(), base: new Map(), fine: new Map() };
  #grain = grainPattern();

  constructor(terrain) {
    this.#terrain = terrain;
  }

  heightM(xM, zM) {
    return this.#terrain.height(Math.round(xM * 1_000), Math.round(zM * 1_000)) / 1_000;
  }

  /**
   * The best finished picture of a chunk, painting a better one while `budget.until` (a time) allows. `grade` is the
   * wanted one: mini (2 m a pixel), base (¼ m), fine (1/16 m). The first mini tile is always painted, it is cheap.
   */
  tile(x, z, grade, budget) {
    const key = chunkKey(x, z);
    const order = grade === 'fine' ? ['fine', 'base', 'mini'] : grade === 'base' ? ['base', 'mini'] : ['mini'];
    const best = order.find((each) => this.#tiles[each].has(key));
    if (best === grade) return this.#keep(grade, key, this.#tiles[grade].get(key));
    if (performance.now() < budget.until) {
      const next = best === 'base' || grade !== 'fine' ? grade : 'base';
      return this.#keep(next, key, this.#paint(next, x, z));
    }
    return best ? this.#keep(best, key, this.#tiles[best].get(key)) : this.#keep('mini', key, this.#paint('mini', x, z));
  }

  /** Moves the tile to the young end of its shelf and drops the oldest beyond the shelf's size. */
  #keep(grade, key, canvas) {
    const shelf = this.#tiles[grade];
    const limit = { mini: 2_048, base: 400, fine: 140 }[grade];
    shelf.delete(key);
    shelf.set(key, canvas);
    while (shelf.size > limit) shelf.delete(shelf.keys().next().value);
    return canvas;
  }

  #paint(grade, x, z) {
    if (grade === 'mini') return this.#paintGround(x, z, 2, 16);
    if (grade === 'base') return this.#paintGround(x, z, 1, 128);
    return this.#paintFine(x, z);
  }

  /** Ground from samples every `step` metres, `size` pixels wide and `border` pixels more on each side. */
  #paintGround(chunkX, chunkZ, step, size, border = 0) {
    const { heights, shades, frays, width } = this.#sample(chunkX, chunkZ, step);
    const whole = size + border * 2;
    const canvas = makeCanvas(whole, whole);
    const context = canvas.getContext('2d');
    const image = context.createImageData(whole, whole);
    const data = image.data;
    const perPixel = CHUNK_M / step / size;
    for (let py = 0, at = 0; py < whole; py += 1) {
      const gz = (py - border + 0.5) * perPixel + 2;
      const iz = Math.floor(gz);
      const tz = gz - iz;
      for (let px = 0; px < whole; px += 1, at += 4) {
        const gx = (px - border + 0.5) * perPixel + 2;
        const ix = Math.floor(gx);
        const tx = gx - ix;
        const a = iz * width + ix;
        const w00 = (1 - tx) * (1 - tz);
        const w10 = tx * (1 - tz);
        const w01 = (1 - tx) * tz;
        const w11 = tx * tz;
        const blend = (grid) => grid[a] * w00 + grid[a + 1] * w10 + grid[a + width] * w01 + grid[a + width + 1] * w11;
        const height = blend(heights);
        const fray = blend(frays);
        let shade = blend(shades);
        const dry = height > 0 ? Math.min(1, height / 1.5) : 0;
        const colour = lutIndex(height + fray * dry * (1 + Math.max(0, height) * 0.05));
        // Water hides the slope of its bed, except where it is shallow.
        if (height < 0) shade *= Math.max(0.12, 0.6 + height * 0.2);
        // Steep dry ground shows its rock.
        const steep = dry * Math.min(1, Math.max(0, Math.abs(shade) - 0.58) * 2.2);
        const light = 1.05 + shade * (shade > 0 ? 0.22 : 0.4) + fray * 0.035 * dry;
        data[at] = (LUT[colour] * (1 - steep) + 128 * steep) * light + (shade > 0 ? shade * 10 : 0);
        data[at + 1] = (LUT[colour + 1] * (1 - steep) + 120 * steep) * light + (shade > 0 ? shade * 8 : 0);
        data[at + 2] = (LUT[colour + 2] * (1 - steep) + 108 * steep) * light - (shade < 0 ? shade * 8 : 0);
        data[at + 3] = 255;
      }
    }
    context.putImageData(image, 0, 0);
    return canvas;
  }

  /** Heights, light and fraying on a lattice that reaches two samples beyond the chunk. */
  #sample(chunkX, chunkZ, step) {
    const width = CHUNK_M / step + 5;
    const wide = width + 2;
    const raw = new Float32Array(wide * wide);
    const x0 = chunkX * CHUNK_M - 3 * step;
    const z0 = chunkZ * CHUNK_M - 3 * step;
    for (let j = 0; j < wide; j += 1) {
      for (let i = 0; i < wide; i += 1) raw[j * wide + i] = this.heightM(x0 + i * step, z0 + j * step);
    }
    const heights = new Float32Array(width * width);
    const shades = new Float32Array(width * width);
    const frays = new Float32Array(width * width);
    for (let j = 0; j < width; j += 1) {
      for (let i = 0; i < width; i += 1) {
        const at = (j + 1) * wide + i + 1;
        const to = j * width + i;
        const east = (raw[at + 1] - raw[at - 1]) / (2 * step);
        const south = (raw[at + wide] - raw[at - wide]) / (2 * step);
        heights[to] = raw[at];
        // Light falls from the north-west: ground that rises towards the south-east is lit.
        const lit = (east + south) * 1.5;
        shades[to] = lit / Math.sqrt(1 + lit * lit);
        const x = x0 + (i + 1) * step;
        const z = z0 + (j + 1) * step;
        frays[to] = softNoise(x, z, 2.3, 1) * 0.35 + softNoise(x, z, 7, 2) * 0.65;
      }
    }
    return { heights, shades, frays, width };
  }

  /** The ground at ⅛ m enlarged, with grain and small things that grow or lie there. */
  #paintFine(chunkX, chunkZ) {
    const scale = 16;
    const size = CHUNK_M * scale;
    const canvas = makeCanvas(size, size);
    const context = canvas.getContext('2d');
    context.imageSmoothingQuality = 'high';
    // With a pixel of the neighbours around it, so that enlarging leaves no seam.
    const ground = this.#paintGround(chunkX, chunkZ, 1, 256, 1);
    const enlarged = size / 256;
    context.drawImage(ground, -enlarged, -enlarged, size + enlarged * 2, size + enlarged * 2);
    context.fillStyle = context.createPattern(this.#grain, 'repeat');
    context.globalCompositeOperation = 'overlay';
    context.globalAlpha = 0.55;
    context.fillRect(0, 0, size, size);
    context.globalCompositeOperation = 'source-over';
    context.globalAlpha = 1;
    context.scale(scale, scale);
    context.lineCap = 'round';
    // The neighbours' outermost metre too, for what reaches across the border.
    for (let j = -1; j <= CHUNK_M; j += 1) {
      for (let i = -1; i <= CHUNK_M; i += 1) {
        const x = chunkX * CHUNK_M + i;
        const z = chunkZ * CHUNK_M + j;
        const chance = placeNoise(x, z, 11);
        if (chance > 0.42) continue;
        const u = i + 0.12 + placeNoise(x, z, 12) * 0.76;
        const v = j + 0.12 + placeNoise(x, z, 13) * 0.76;
        context.save();
        context.translate(u, v);
        paintDetail(context, this.heightM(x + 0.5, z + 0.5), chance / 0.42, placeNoise(x, z, 14));
        context.restore();
      }
    }
    return canvas;
  }
}

/** One small thing of the ground: `kind` and `vary` in 0..1. Lengths in metres. */
function paintDetail(context, height, kind, vary) {
  if (height < -0.25) {
    if (height > -5 && kind < 0.16) {
      context.strokeStyle = `rgba(255,255,255,${height > -1.5 ? 0.16 : 0.07})`;
      context.lineWidth = 0.05;
      context.beginPath();
      context.moveTo(-0.28, 0);
      context.quadraticCurveTo(-0.1, -0.12, 0.04, 0);
      context.quadraticCurveTo(0.16, 0.08, 0.3, 0);
      context.stroke();
    }
  } else if (height < 1.3) {
    if (height > 0.15 && kind < 0.3) dot(context, 0, 0, 0.03 + vary * 0.04, vary > 0.6 ? '#fff4d6aa' : '#a98f5c88');
  } else if (height < 19) {
    const dark = height > 9;
    if (kind < 0.62) tuft(context, vary, dark);
    else if (kind < 0.7 && !dark) flower(context, vary);
    else if (kind < 0.76) dot(context, 0, 0, 0.05 + vary * 0.06, '#8d8a7d99');
    else if (kind < 0.86) dot(context, 0, 0, 0.3 + vary * 0.45, dark ? '#2c50301c' : '#5a8a3a22');
  } else if (height < 28.5) {
    if (kind < 0.5) pebble(context, 0.06 + vary * 0.12);
    else if (kind < 0.62) crack(context, vary);
  } else if (kind < 0.2) {
    dot(context, 0, 0, 0.04, '#ffffffcc');
  } else if (kind < 0.5) {
    dot(context, 0, 0, 0.35 + vary * 0.4, '#b9cbe01e');
  }
}

function dot(context, x, y, radius, colour) {
  context.fillStyle = colour;
  context.beginPath();
  context.arc(x, y, radius, 0, Math.PI * 2);
  context.fill();
}

function tuft(context, vary, dark) {
  const length = 0.13 + vary * 0.13;
  context.lineWidth = 0.045;
  for (let blade = -1; blade <= 1; blade += 1) {
    context.strokeStyle = dark ? (blade ? '#31553188' : '#5d8a4a99') : blade ? '#567f3c88' : '#a8c56fbb';
    context.beginPath();
    context.moveTo(blade * 0.05, 0);
    context.quadraticCurveTo(blade * 0.06, -length * 0.6, blade * 0.13, -length);
    context.stroke();
  }
}

function flower(context, vary) {
  const colour = ['#ffffffdd', '#f6d94cdd', '#e7a3c8dd', '#b9a6f0dd'][Math.floor(vary * 4)];
  for (let i = 0; i < 3; i += 1) {
    dot(context, Math.cos(i * 2.1 + vary * 6) * 0.12, Math.sin(i * 2.1 + vary * 6) * 0.1, 0.05, colour);
  }
}

function pebble(context, radius) {
  dot(context, radius * 0.3, radius * 0.35, radius, '#2b2a2833');
  dot(context, 0, 0, radius, '#8f8b83');
  dot(context, -radius * 0.25, -radius * 0.25, radius * 0.55, '#b3afa6');
}

function crack(context, vary) {
  context.strokeStyle = '#3b393544';
  context.lineWidth = 0.035;
  context.beginPath();
  context.moveTo(-0.3, -0.1 + vary * 0.2);
  context.lineTo(-0.05, 0.05 - vary * 0.1);
  context.lineTo(0.12, -0.06);
  context.lineTo(0.34, 0.1 * vary);
  context.stroke();
}

/** A tile of grey grain that is laid over the ground. It has even brightness, so overlaying it keeps colours. */
function grainPattern() {
  const size = 128;
  const canvas = makeCanvas(size, size);
  const context = canvas.getContext('2d');
  const image = context.createImageData(size, size);
  for (let y = 0; y < size; y += 1) {
    for (let x = 0; x < size; x += 1) {
      // Coarse grain is smooth and comes round at the tile's edge.
      const coarse = softNoise(x, y, 8, 21) * (1 - x / size) + softNoise(x - size, y, 8, 21) * (x / size);
      const value = 128 + (placeNoise(x, y, 22) - 0.5) * 22 + coarse * 9;
      image.data.set([value, value, value, 255], (y * size + x) * 4);
    }
  }
  context.putImageData(image, 0, 0);
  return canvas;
}
