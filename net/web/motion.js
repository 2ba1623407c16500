// How movers move: motion packets, and what is known of each slot. What the packets' records hold is in `wire.generated.js`.
//
// A packet lists slots with their new states, each whole or as the difference from a state of an earlier tick. States are
// kept per slot for as long as a packet may name them, also of slots that no view has introduced yet.

import { BitReader } from './codec.js';
import {
  AGE_BITS,
  COUNT_BITS,
  GAP_ONES_MAX,
  HISTORY_TICKS,
  MOTION_KIND,
  RICE_BITS,
  SLOT_BITS,
  readMotion,
  readMotionHead,
  readStep,
} from './wire.generated.js';

const STATES_MAX = 128;
const SWEEP_PACKETS = 1_024;

/**
 * A motion packet: `{kind: 'motion', number, tick, newestInput, own, updates}`, the first three by their lowest 16 bits. An
 * update is `{slot, age, state}`, the state whole, `{x, z, yaw, y}`, with `age` 0, else the difference, `{dx, dz, yaw, y}`; `yaw` null: as
 * before; `y` null: on the ground.
 */
export function decodeMotion(bytes) {
  const reader = new BitReader(bytes);
  if (reader.read(8) !== MOTION_KIND) throw new Error('holds an unknown datagram kind');
  const packet = { kind: 'motion', ...readMotionHead(reader), updates: [] };
  const count = reader.read(COUNT_BITS);
  const rice = reader.read(RICE_BITS);
  let nextSlot = 0;
  let age = null;
  for (let i = 0; i < count; i += 1) {
    const ones = reader.ones(GAP_ONES_MAX);
    const slot = ones < GAP_ONES_MAX ? nextSlot + ones * 2 ** rice + reader.read(rice) : reader.read(SLOT_BITS);
    if (slot < nextSlot || slot > 0xffff) throw new Error('holds an invalid slot');
    nextSlot = slot + 1;
    if (!reader.flag()) age = reader.read(AGE_BITS);
    if (age === null) throw new Error('holds an invalid age');
    packet.updates.push({ slot, age, state: age === 0 ? readMotion(reader) : readStep(reader) });
  }
  return reader.finish(packet);
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

function resolve(states, tick, { age, state }) {
  if (age === 0) return state;
  for (let i = states.length - 1; i >= 0; i -= 1) {
    const base = states[i];
    if (base.tick === tick - age) {
      return { x: base.x + state.dx, z: base.z + state.dz, yaw: state.yaw ?? base.yaw, y: state.y };
    }
  }
  return null;
}
