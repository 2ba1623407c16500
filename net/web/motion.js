// How movers move: motion packets, what `schema/src/wire/motion.rs` says in Rust, said again in JavaScript.
//
// A packet lists slots with their new states, each whole or as the difference from a state of an earlier tick. States are
// kept per slot for as long as a packet may name them, also of slots that no view has introduced yet.

/** Millimetres of a quantum of position. */
export const QUANTUM_MM = 8;
/** How far back states are kept, ticks. */
export const HISTORY_TICKS = 254;

const COORDINATE_BITS = 29;
const HEIGHT_BITS = 20;
const YAW_BITS = 8;
const AGE_BITS = 7;
const COUNT_BITS = 10;
const RICE_BITS = 4;
const GAP_ONES_MAX = 15;
/** Bits of each axis of a difference, by class. */
const STEP_BITS = [0, 5, 8, 12];
const STATES_MAX = 128;
const SWEEP_PACKETS = 1_024;

/** A cursor over bits, the least significant of each byte first; every read is checked. */
export class BitReader {
  #bytes;
  #at = 0;

  constructor(bytes) {
    this.#bytes = bytes instanceof Uint8Array ? bytes : new Uint8Array(bytes);
  }

  /** `count` bits as an unsigned number, at most 32. */
  read(count) {
    const end = this.#at + count;
    if (end > this.#bytes.length * 8) throw new Error('ends too early');
    let value = 0;
    let weight = 1;
    while (this.#at < end) {
      const offset = this.#at % 8;
      const taken = Math.min(8 - offset, end - this.#at);
      const bits = (this.#bytes[(this.#at - offset) / 8] >> offset) & ((1 << taken) - 1);
      value += bits * weight;
      weight *= 2 ** taken;
      this.#at += taken;
    }
    return value;
  }

  flag() {
    return this.read(1) === 1;
  }

  /** `count` bits of two's complement, 1 to 32. */
  signed(count) {
    const value = this.read(count);
    return value >= 2 ** (count - 1) ? value - 2 ** count : value;
  }

  /** Requires that nothing but zeros that fill the last byte is left. */
  finish() {
    const left = this.#bytes.length * 8 - this.#at;
    if (left >= 8) throw new Error(`has ${Math.floor(left / 8)} bytes too many`);
    if (this.read(left) !== 0) throw new Error('holds an invalid padding');
  }
}

/**
 * A motion packet: `{kind: 'motion', number, tick, newestInput, own, updates}`, the first three by their lowest 16 bits. An
 * update is `{slot, age, dx, dz, yaw, y}` or, with `age` 0, `{slot, age, x, z, yaw, y}`; `yaw` null: as before; `y` null: on
 * the ground.
 */
export function decodeMotion(bytes) {
  const reader = new BitReader(bytes);
  if (reader.read(8) !== 1) throw new Error('holds an unknown datagram kind');
  const packet = { kind: 'motion', number: reader.read(16), tick: reader.read(16), newestInput: reader.read(16) };
  packet.own = null;
  if (reader.flag()) {
    const [x, z, yaw] = [reader.signed(32), reader.signed(32), reader.read(16)];
    packet.own = { x, z, yaw, y: reader.flag() ? null : reader.signed(32) };
  }
  const count = reader.read(COUNT_BITS);
  const rice = reader.read(RICE_BITS);
  packet.updates = [];
  let nextSlot = 0;
  let age = null;
  for (let i = 0; i < count; i += 1) {
    let ones = 0;
    while (ones < GAP_ONES_MAX && reader.flag()) ones += 1;
    const slot = ones < GAP_ONES_MAX ? nextSlot + ones * 2 ** rice + reader.read(rice) : reader.read(16);
    if (slot < nextSlot || slot > 0xffff) throw new Error('holds an invalid slot');
    nextSlot = slot + 1;
    if (!reader.flag()) age = reader.read(AGE_BITS);
    if (age === null) throw new Error('holds an invalid age');
    packet.updates.push(age === 0 ? readAbsolute(reader, slot) : readStep(reader, slot, age));
  }
  reader.finish();
  return packet;
}

function readAbsolute(reader, slot) {
  const [x, z] = [reader.signed(COORDINATE_BITS), reader.signed(COORDINATE_BITS)];
  return { slot, age: 0, x, z, yaw: reader.read(YAW_BITS), y: readHeight(reader) };
}

function readStep(reader, slot, age) {
  const bits = STEP_BITS[reader.read(2)];
  const [dx, dz] = bits === 0 ? [0, 0] : [reader.signed(bits), reader.signed(bits)];
  const yaw = reader.flag() ? reader.read(YAW_BITS) : null;
  return { slot, age, dx, dz, yaw, y: readHeight(reader) };
}

function readHeight(reader) {
  return reader.flag() ? null : reader.signed(HEIGHT_BITS);
}

/** The whole number whose lowest 16 bits are `low`, nearest to `near`. */
export function widen(low, near) {
  const ahead = (low - (near % 65_536) + 65_536) % 65_536;
  return Math.max(0, near + (ahead < 32_768 ? ahead : ahead - 65_536));
}

/** The states of all slots, and which packets arrived. */
export class MotionStore {
  /** `{newest, before}` for the shard, or null before the first packet. */
  acks = null;
  /** Packets that came, and those that were sent up to the newest. */
  counts = { came: 0, sent: 0 };
  /** States that named one which never came. */
  undecodable = 0;
  #slots = new Map();

  /**
   * Takes a packet whose tick is `tick`; calls `moved(slot, state, tick)` for each state that is its slot's newest, a state
   * being `{x, z, yaw, y}` in quanta and 256ths of a turn.
   */
  take(packet, tick, moved) {
    this.#acknowledge(packet.number);
    if (packet.number % SWEEP_PACKETS === 0) this.#sweep(tick - HISTORY_TICKS);
    for (const update of packet.updates) {
      let states = this.#slots.get(update.slot);
      if (!states) this.#slots.set(update.slot, (states = []));
      const state = resolve(states, tick, update);
      if (!state) {
        this.undecodable += 1;
        continue;
      }
      let at = states.length;
      while (at > 0 && states[at - 1].tick >= tick) at -= 1;
      states.splice(at, states[at]?.tick === tick ? 1 : 0, { tick, ...state });
      const oldest = states.at(-1).tick - HISTORY_TICKS;
      while (states.length > STATES_MAX || states[0].tick < oldest) states.shift();
      if (states.at(-1).tick === tick) moved(update.slot, state, tick);
    }
  }

  /** The newest state of a slot with its `tick`, if there is one. */
  newest(slot) {
    return this.#slots.get(slot)?.at(-1) ?? null;
  }

  #acknowledge(number) {
    this.counts.came += 1;
    if (!this.acks) {
      this.counts.sent += 1;
      this.acks = { newest: number, before: 0 };
      return;
    }
    const { newest, before } = this.acks;
    const ahead = (number - newest + 65_536) % 65_536;
    const behind = (newest - number + 65_536) % 65_536;
    if (ahead === 0) return;
    if (ahead < 32_768) {
      this.counts.sent += ahead;
      const shifted = ahead < 32 ? (before << ahead) >>> 0 : 0;
      this.acks = { newest: number, before: ahead <= 32 ? (shifted | (1 << (ahead - 1))) >>> 0 : 0 };
    } else if (behind <= 32) {
      this.acks = { newest, before: (before | (1 << (behind - 1))) >>> 0 };
    }
  }

  #sweep(oldest) {
    for (const [slot, states] of this.#slots) if ((states.at(-1)?.tick ?? 0) < oldest) this.#slots.delete(slot);
  }
}

function resolve(states, tick, { age, x, z, dx, dz, yaw, y }) {
  if (age === 0) return { x, z, yaw, y };
  for (let i = states.length - 1; i >= 0; i -= 1) {
    const base = states[i];
    if (base.tick === tick - age) return { x: base.x + dx, z: base.z + dz, yaw: yaw ?? base.yaw, y };
  }
  return null;
}
