// Where others' heads and hands are: the stream of poses, decoded as `schema/src/wire/pose/stream.rs` does it (`schema/docs/wire.md` has the
// bits), and shown a little later than they came, so that there is nearly always a later pose to move towards.

import { BitReader } from './codec.js';
import {
  POSE_BYTES_MAX,
  POSE_DISTANCE_BITS,
  POSE_HEAD_AND_HANDS,
  POSE_HEAD_BITS,
  POSE_KEY_PARAMETERS,
  POSE_LAYERS,
  POSE_LEFT_OUT_BITS,
  POSE_ONES_MAX,
  POSE_PARAMETERS,
  POSE_PARAMETER_BITS,
  POSE_PARTS,
  POSE_PART_BITS,
  POSE_PLAIN_BITS,
  POSE_REMEMBERED,
  POSE_RESTART_SLOTS,
  POSE_ROTATION_BITS,
  POSE_SHORT_BITS,
  POSE_SILENCE_MS,
  POSE_SLOTS_PER_S,
  POSE_SLOT_BITS,
  POSE_USUAL_DISTANCES,
  ROTATION_LEFT_OUT_MIN,
  ROTATION_ONE,
  ROTATION_PART_MAX,
} from './wire.generated.js';

const PARTS = POSE_PARTS.length;
const KEY = 0;
const AXES = [0, 1, 2];

/** The entries of the shard's datagram behind its kind: `[{player, pose}]`, a pose being the bytes for a `PoseDecoder`. */
export function decodePoses(reader) {
  const entries = [];
  while (reader.left > 0) {
    const player = reader.u64();
    const length = reader.u8();
    if (length > POSE_BYTES_MAX) throw new Error(`holds a pose of ${length} bytes, at most ${POSE_BYTES_MAX} are allowed`);
    entries.push({ player, pose: reader.take(length) });
  }
  return entries;
}

/** Full 0, half 10, anchor 110, key 111. */
const readLayer = (reader) => POSE_LAYERS.length - 1 - reader.ones(POSE_LAYERS.length - 1);

/** A number in the code with this parameter (R. F. Rice, 1979), folded: 0, −1, 1, −2, … as 0, 1, 2, 3, …. */
function readFolded(reader, parameter) {
  const low = POSE_PARAMETERS[parameter];
  const ones = reader.ones(POSE_ONES_MAX);
  const folded = ones === POSE_ONES_MAX ? reader.read(POSE_PLAIN_BITS) : ones * 2 ** low + reader.read(low);
  return (folded >>> 1) ^ -(folded & 1);
}

/** The parameter that follows `before`, and three numbers in its code. */
function readThree(reader, before) {
  let parameter = before;
  if (reader.flag()) {
    if (reader.flag()) parameter = reader.read(POSE_PARAMETER_BITS);
    else parameter += reader.flag() ? 1 : -1;
  }
  if (parameter < 0 || parameter >= POSE_PARAMETERS.length) throw new Error('holds an invalid parameter');
  return { parameter, numbers: AXES.map(() => readFolded(reader, parameter)) };
}

/** What is left of 1 for the left-out part, squared. */
const rest = ([a, b, c]) => ROTATION_ONE * ROTATION_ONE - (a * a + b * b + c * c);

function rotation(leftOut, others) {
  const tooLarge = others.some((part) => Math.abs(part) > ROTATION_PART_MAX);
  if (tooLarge || rest(others) < ROTATION_LEFT_OUT_MIN * ROTATION_LEFT_OUT_MIN) throw new Error('holds an invalid rotation');
  return { leftOut, others };
}

/** All four parts, the left-out one rounded down. */
function whole({ leftOut, others }) {
  return others.toSpliced(leftOut, 0, Math.floor(Math.sqrt(Math.max(0, rest(others)))));
}

/** Moved on from `at` for `slots` as it moved from `before` in `since`; half away from zero. */
function onward(at, before, slots, since) {
  const numerator = (at - before) * slots;
  return at + Math.floor((Math.abs(numerator) * 2 + since) / (since * 2)) * Math.sign(numerator);
}

/** What is expected of a part, `before` being `{tracked, slots, since}` when the player moves. */
function expectedPosition(base, before) {
  if (!before) return base.position;
  return AXES.map((axis) => onward(base.position[axis], before.tracked.position[axis], before.slots, before.since));
}

function expectedRotation(base, before, leftOut) {
  let parts = whole(base.rotation);
  if (before) {
    const past = whole(before.tracked.rotation);
    // Of a quaternion's two signs the nearer one.
    const sign = parts.reduce((sum, part, at) => sum + part * past[at], 0) < 0 ? -1 : 1;
    parts = parts.map((part, at) => onward(part, sign * past[at], before.slots, before.since));
  }
  const sign = parts[leftOut] < 0 ? -1 : 1;
  return parts.toSpliced(leftOut, 1).map((part) => sign * part);
}

/** The receiver's side of one player's stream. */
export class PoseDecoder {
  /** slot modulo `POSE_REMEMBERED` → `{slot, distance, parts, parameters}`; a part is `{position, rotation}` or null. */
  #entries = [];
  #newest = 0;
  #heard = null;

  /**
   * One pose that arrived at `now`, milliseconds: `{slot, layer, parts}`, the parts by number, `{position: [x, y, z], rotation: {leftOut,
   * others}}` or null; or null when a pose that it refers to did not arrive. Throws when the bytes are no pose. In both cases the decoder is
   * then as it was.
   */
  decode(now, bytes) {
    if (bytes.length > POSE_BYTES_MAX) throw new Error(`has ${bytes.length} bytes, at most ${POSE_BYTES_MAX} are allowed`);
    const remembers = this.#heard !== null && now - this.#heard < POSE_SILENCE_MS;
    const reader = new BitReader(bytes);
    const layer = readLayer(reader);
    const entry = layer === KEY ? readKey(reader) : this.#readChange(reader, layer, remembers);
    if (!entry) return null;
    reader.finish();
    const ahead = (entry.slot - this.#newest + 0x1_0000) % 0x1_0000;
    const away = Math.min(ahead, 0x1_0000 - ahead);
    if (layer === KEY && (!remembers || away > POSE_RESTART_SLOTS)) {
      this.#entries = [];
      this.#newest = entry.slot;
    } else if (ahead < 0x8000) {
      this.#newest = entry.slot;
    }
    // One that is so late that nothing can refer to it must not push out one that is needed.
    if ((this.#newest - entry.slot + 0x1_0000) % 0x1_0000 < POSE_REMEMBERED) {
      this.#entries[entry.slot % POSE_REMEMBERED] = entry;
    }
    this.#heard = now;
    return { slot: entry.slot, layer, parts: entry.parts };
  }

  #at(slot) {
    const wrapped = (slot + 0x1_0000) % 0x1_0000;
    const entry = this.#entries[wrapped % POSE_REMEMBERED];
    return entry?.slot === wrapped ? entry : null;
  }

  #readChange(reader, layer, remembers) {
    // The slot of this short number that is nearest to the newest one.
    const modulus = 2 ** POSE_SHORT_BITS;
    const ahead = (reader.read(POSE_SHORT_BITS) - (this.#newest % modulus) + modulus * 1.5) % modulus;
    const slot = (this.#newest + ahead - modulus / 2 + 0x1_0000) % 0x1_0000;
    const distance = reader.flag() ? reader.read(POSE_DISTANCE_BITS) : POSE_USUAL_DISTANCES[layer];
    if (distance === 0) throw new Error('holds an invalid reference');
    const moving = reader.flag();
    const turned = reader.flag();
    const base = remembers ? this.#at(slot - distance) : null;
    const past = base && moving && base.distance > 0 ? this.#at(base.slot - base.distance) : null;
    if (!base || (moving && !past)) return null;
    const parts = base.parts.slice();
    const parameters = base.parameters.slice();
    for (let at = 0; at < PARTS; at += 1) {
      const was = base.parts[at];
      if (!was) continue;
      // A reference's own reference may have tracked other parts: never in what our encoder makes, and then nothing is expected of it.
      const before = past && { tracked: past.parts[at] ?? NOWHERE, slots: distance, since: base.distance };
      const [forPlace, forRotation] = parameters[at];
      const place = readThree(reader, forPlace);
      const position = expectedPosition(was, before).map((axis, n) => axis + place.numbers[n]);
      if (position.some((axis) => axis < -0x8000 || axis > 0x7fff)) throw new Error('holds an invalid position');
      const leftOut = turned ? reader.read(POSE_LEFT_OUT_BITS) : was.rotation.leftOut;
      const turn = readThree(reader, forRotation);
      const others = expectedRotation(was, before, leftOut).map((part, n) => part + turn.numbers[n]);
      parts[at] = { position, rotation: rotation(leftOut, others) };
      parameters[at] = [place.parameter, turn.parameter];
    }
    return { slot, distance, parts, parameters };
  }
}

const NOWHERE = { position: [0, 0, 0], rotation: { leftOut: 3, others: [0, 0, 0] } };

function readKey(reader) {
  const slot = reader.read(POSE_SLOT_BITS);
  const mask = reader.flag() ? reader.read(PARTS - 1) * 2 + 1 : POSE_HEAD_AND_HANDS;
  const parts = [];
  const offset = (bits) => reader.read(bits) - 2 ** (bits - 1);
  let origin = [0, 0, 0];
  for (let at = 0; at < PARTS; at += 1) {
    if (((mask >> at) & 1) === 0) {
      parts.push(null);
      continue;
    }
    const from = origin;
    const position = AXES.map((axis) => from[axis] + offset(at === 0 ? POSE_HEAD_BITS : POSE_PART_BITS));
    // Others are told from the head.
    if (at === 0) origin = position;
    const leftOut = reader.read(POSE_LEFT_OUT_BITS);
    parts.push({ position, rotation: rotation(leftOut, AXES.map(() => offset(POSE_ROTATION_BITS))) });
  }
  return { slot, distance: 0, parts, parameters: parts.map(() => POSE_KEY_PARAMETERS) };
}

const SLOT_MS = 1_000 / POSE_SLOTS_PER_S;
/** Who is not heard for this long has put the headset down. */
const GONE_MS = 1_500;
const SAMPLES_MAX = 64;
/** How far in the past poses are shown: at least, at most, and beyond the usual time between two. */
const DELAY_LEAST_MS = 50;
const DELAY_MOST_MS = 500;
const DELAY_SLACK_MS = 25;
/** The clock of a sender whose poses come later than thought is believed slowly, milliseconds a pose. */
const DRIFT_MS = 0.05;
/** A jump of a sender's slots beyond this begins anew. */
const RESTART_MS = 1_000;

/** One player's head and hands over time. */
export class TrackedBody {
  #decoder = new PoseDecoder();
  /** `{at, parts}` in rising order of `at`, milliseconds of the sender's slots; places in metres, rotations as quaternions. */
  #samples = [];
  /** The page's clock minus the sender's, of the poses that were quickest. */
  #offset = null;
  #newestSlot = 0;
  #newestAt = 0;
  #gap = SLOT_MS;
  #heard = -Infinity;

  /** Takes a pose that arrived at `now`; says whether it could be read. */
  take(now, bytes) {
    const received = this.#decoder.decode(now, bytes);
    if (!received) return false;
    const ahead = ((received.slot - this.#newestSlot + 0x1_8000) % 0x1_0000) - 0x8000;
    const at = this.#newestAt + ahead * SLOT_MS;
    const late = this.#offset === null ? Infinity : now - at - this.#offset;
    const anew = now - this.#heard > GONE_MS || Math.abs(late) > RESTART_MS;
    this.#heard = now;
    if (anew) {
      this.#samples = [];
      this.#offset = now - at;
      this.#gap = SLOT_MS;
    } else {
      this.#offset += Math.min(late, DRIFT_MS);
      if (ahead > 0) this.#gap = Math.max(ahead * SLOT_MS, this.#gap * 0.97);
    }
    if (anew || ahead > 0) {
      this.#newestSlot = received.slot;
      this.#newestAt = at;
    }
    let place = this.#samples.length;
    while (place > 0 && this.#samples[place - 1].at > at) place -= 1;
    this.#samples.splice(place, 0, { at, parts: received.parts.map((part) => part && real(part)) });
    if (this.#samples.length > SAMPLES_MAX) this.#samples.shift();
    return true;
  }

  /** The parts at `now`, by number: `{place: [x, y, z] metres, turn: [x, y, z, w]}` or null; null when nobody was heard of late. */
  at(now) {
    if (now - this.#heard > GONE_MS || this.#samples.length === 0) return null;
    const delay = Math.min(DELAY_MOST_MS, Math.max(DELAY_LEAST_MS, this.#gap + DELAY_SLACK_MS));
    const time = now - this.#offset - delay;
    const later = this.#samples.findIndex((sample) => sample.at > time);
    if (later <= 0) return this.#samples.at(later).parts;
    const [a, b] = [this.#samples[later - 1], this.#samples[later]];
    const t = (time - a.at) / (b.at - a.at);
    return b.parts.map((part, n) => (part && a.parts[n] ? between(a.parts[n], part, t) : part));
  }
}

/** Metres and a unit quaternion. */
function real({ position, rotation: { leftOut, others } }) {
  const parts = others.map((part) => part / ROTATION_ONE);
  const left = Math.sqrt(Math.max(0, 1 - parts.reduce((sum, part) => sum + part * part, 0)));
  return { place: position.map((axis) => axis / 1_000), turn: parts.toSpliced(leftOut, 0, left) };
}

function between(a, b, t) {
  const sign = a.turn.reduce((sum, part, n) => sum + part * b.turn[n], 0) < 0 ? -1 : 1;
  const turn = a.turn.map((part, n) => part + (sign * b.turn[n] - part) * t);
  const length = Math.hypot(...turn);
  return { place: a.place.map((axis, n) => axis + (b.place[n] - axis) * t), turn: turn.map((part) => part / length) };
}

/** Which way a rotated part points, seen from above: `{angle, reach}`, clockwise from north, and how much of it lies in the plane. */
export function pointing([x, y, z, w]) {
  const east = -2 * (x * z + w * y);
  const south = -(1 - 2 * (x * x + y * y));
  return { angle: Math.atan2(east, -south), reach: Math.hypot(east, south) };
}
