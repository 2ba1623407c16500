// What this player can see of the world: entities as the server described them last, put together from views (reliable) and
// motion packets (unreliable), indexed for drawing, with poses to interpolate between.
//
// Invariants: a pose is never replaced by an older tick's; what has left comes back by a view only.

import { MotionStore, widen } from './motion.js';
import { TrackedBody } from './pose.js';
import { CHUNKS_IN_MIND_MAX, CHUNK_MM, QUANTUM_MM, decodeComponent } from './wire.js';

/** Others are shown this far in the past, so that there is nearly always a later pose to move towards. */
const OTHERS_DELAY_MS = 100;
/** The own player is shown with just enough delay to be smooth: a little more than the time between two snapshots. */
const OWN_DELAY_MS = 65;
const SAMPLES_MAX = 32;
/** A silence longer than this between two poses means standing still, not walking slowly. */
const STANDING_GAP_MS = 400;

export class WorldView {
  /** id → entity */
  entities = new Map();
  /** "x,z" of a chunk → set of entities that stand still in it */
  chunks = new Map();
  /** Entities with a pose. */
  walkers = new Map();
  /** The own player ahead of the server, once the server has said where it is. */
  ownPlayer = null;
  /** Own slots, `null` or `{id, item, count}`. */
  slots = [];
  /** Grows when the own inventory changes. */
  inventoryVersion = 0;

  /** States by slot, and which packets arrived. */
  motion = new MotionStore();

  /** Poses of heads and hands: how many could be used, referred to one that did not come, and could not be read. */
  poses = { shown: 0, incomplete: 0, damaged: 0 };

  /** slot → `{entity, since}` */
  #holders = new Map();
  /** Chunks that left the view, with what stood in them. */
  #inMind = new Map();
  #newestTick = 0;
  #terrain;
  #clockOffset = null;
  #tickMs;
  #gridMm;
  #warnings = 0;

  /** `tick`: about where the server is. */
  constructor({ player, tickHz, gridMm, terrain, tick }) {
    this.#newestTick = tick;
    this.#terrain = terrain;
    this.playerId = player;
    this.#tickMs = 1_000 / Math.max(1, tickHz);
    this.#gridMm = gridMm;
  }

  get own() {
    return this.entities.get(this.playerId);
  }

  /** Own items: item number → count. */
  held() {
    const held = new Map();
    for (const slot of this.slots) if (slot) held.set(slot.item, (held.get(slot.item) ?? 0) + slot.count);
    return held;
  }

  /** Takes a decoded view message. */
  applyView(view, now) {
    // The clock follows motion packets, which are never held back; a view may come late, in order behind others.
    if (this.#clockOffset === null) this.#hearTick(view.tick, now);
    this.#newestTick = Math.max(this.#newestTick, view.tick);
    for (const operation of view.operations) this.#applyOperation(operation, view.tick, now);
  }

  #applyOperation(operation, tick, now) {
    switch (operation.kind) {
      case 'enter':
      case 'spawn':
      case 'enter_mover':
      case 'spawn_mover':
      case 'own': {
        let entity = this.entities.get(operation.id);
        if (!entity) {
          entity = { id: operation.id, samples: [], poseTick: -1, seenAt: now };
          this.entities.set(operation.id, entity);
        }
        for (const component of operation.components) this.#applyComponent(entity, component, tick);
        if (operation.slot !== undefined) {
          this.#holders.set(operation.slot, { entity, since: tick });
          entity.slot = operation.slot;
          // Packets may have been faster.
          const newest = this.motion.newest(operation.slot);
          if (newest && newest.tick >= tick) this.#applyPose(entity, this.#poseOf(newest), newest.tick);
        }
        this.#index(entity);
        break;
      }
      case 'change': {
        // A change of something unknown is of something that left meanwhile.
        const entity = this.entities.get(operation.id);
        if (!entity) break;
        for (const component of operation.components) this.#applyComponent(entity, component, tick);
        this.#index(entity);
        break;
      }
      case 'despawn':
      case 'leave':
        this.#leave(operation.value);
        break;
      case 'leave_chunk': {
        const key = chunkKey(operation.value.x, operation.value.z);
        const members = [...(this.chunks.get(key) ?? [])];
        this.chunks.delete(key);
        for (const entity of members) {
          entity.chunk = undefined;
          this.entities.delete(entity.id);
        }
        this.#inMind.set(key, members);
        if (this.#inMind.size > CHUNKS_IN_MIND_MAX + 1) this.#inMind.delete(this.#inMind.keys().next().value);
        break;
      }
      case 'recall_chunk': {
        const key = chunkKey(operation.value.x, operation.value.z);
        for (const entity of this.#inMind.get(key) ?? []) {
          this.entities.set(entity.id, entity);
          this.#index(entity);
        }
        this.#inMind.delete(key);
        break;
      }
      case 'forget_chunk':
        this.#inMind.delete(chunkKey(operation.value.x, operation.value.z));
        break;
    }
  }

  /** Takes a motion packet. */
  applyMotion(packet, now) {
    const tick = widen(packet.tick, this.#newestTick);
    this.#newestTick = Math.max(this.#newestTick, tick);
    this.#hearTick(tick, now);
    const own = this.own;
    if (packet.own && own) {
      const { x, z, yaw } = packet.own;
      this.#applyPose(own, { x, y: packet.own.y ?? this.#terrain.height(x, z), z, yaw }, tick);
      this.#index(own);
    }
    this.motion.take(packet, tick, (slot, state) => {
      const holder = this.#holders.get(slot);
      if (!holder || holder.since > tick || this.entities.get(holder.entity.id) !== holder.entity) return;
      this.#applyPose(holder.entity, this.#poseOf(state), tick);
      this.#index(holder.entity);
    });
  }

  /** Takes others' heads and hands, `[{player, pose}]`; one that cannot be read is counted and dropped alone. */
  applyPoses(entries, now) {
    for (const { player, pose } of entries) {
      const entity = this.entities.get(player);
      // A view may be slower than poses.
      if (!entity) continue;
      entity.tracked ??= new TrackedBody();
      try {
        if (entity.tracked.take(now, pose)) this.poses.shown += 1;
        else this.poses.incomplete += 1;
      } catch (error) {
        this.poses.damaged += 1;
        if (this.poses.damaged <= 20) console.warn(`A pose of ${player} was dropped:`, error);
      }
    }
  }

  /** Head and hands of a walker now, see `TrackedBody.at`; null when it has no trackers. */
  trackedAt(entity, now) {
    return entity.tracked?.at(now) ?? null;
  }

  #poseOf(state) {
    const [x, z] = [state.x * QUANTUM_MM, state.z * QUANTUM_MM];
    const y = state.y === null ? this.#terrain.height(x, z) : state.y * QUANTUM_MM;
    return { x, y, z, yaw: state.yaw * 256 };
  }

  /** A damaged component is dropped alone. */
  #decode(tag, bytes) {
    try {
      return decodeComponent(tag, bytes);
    } catch (error) {
      this.#warnings += 1;
      if (this.#warnings <= 20) console.warn(`Component ${tag} was dropped:`, error);
      return null;
    }
  }

  #applyComponent(entity, [tag, bytes], tick) {
    const component = this.#decode(tag, bytes);
    if (!component) return;
    const { name, value } = component;
    if (name === 'pose') {
      this.#applyPose(entity, { ...value.position, yaw: value.yaw }, tick);
      return;
    }
    entity[name] = value;
    if (name === 'inventory' && entity.id === this.playerId) {
      this.slots = value.slots;
      this.inventoryVersion += 1;
    }
  }

  #applyPose(entity, pose, tick) {
    if (tick < entity.poseTick) return;
    const at = tick * this.#tickMs;
    const last = entity.samples.at(-1);
    if (last && last.at === at) entity.samples.pop();
    else if (last && at - last.at > STANDING_GAP_MS) entity.samples.push({ ...last, at: at - this.#tickMs * 2 });
    entity.samples.push({ at, ...pose });
    if (entity.samples.length > SAMPLES_MAX) entity.samples.splice(0, entity.samples.length - SAMPLES_MAX);
    entity.pose = pose;
    entity.poseTick = tick;
  }

  #leave(id) {
    const entity = this.entities.get(id);
    if (!entity) return;
    this.entities.delete(id);
    this.walkers.delete(id);
    if (entity.slot !== undefined && this.#holders.get(entity.slot)?.entity === entity) this.#holders.delete(entity.slot);
    if (entity.chunk !== undefined) this.#removeFromChunk(entity);
  }

  #removeFromChunk(entity) {
    const members = this.chunks.get(entity.chunk);
    members?.delete(entity);
    if (members?.size === 0) this.chunks.delete(entity.chunk);
    entity.chunk = undefined;
  }

  /** Puts the entity where drawing finds it. */
  #index(entity) {
    if (entity.pose) {
      this.walkers.set(entity.id, entity);
      return;
    }
    if (entity.structure) {
      entity.x = (entity.structure.column + 0.5) * this.#gridMm;
      entity.z = (entity.structure.row + 0.5) * this.#gridMm;
    } else if (entity.placement) {
      entity.x = entity.placement.position.x;
      entity.z = entity.placement.position.z;
    } else {
      return;
    }
    const chunk = chunkKey(Math.floor(entity.x / CHUNK_MM), Math.floor(entity.z / CHUNK_MM));
    if (entity.chunk === chunk) return;
    if (entity.chunk !== undefined) this.#removeFromChunk(entity);
    entity.chunk = chunk;
    if (!this.chunks.has(chunk)) this.chunks.set(chunk, new Set());
    this.chunks.get(chunk).add(entity);
  }

  /** All pieces in a cell of the building grid, of one storey. */
  *piecesIn(column, row, level) {
    const chunk = chunkKey(
      Math.floor(((column + 0.5) * this.#gridMm) / CHUNK_MM),
      Math.floor(((row + 0.5) * this.#gridMm) / CHUNK_MM),
    );
    for (const entity of this.chunks.get(chunk) ?? []) {
      const s = entity.structure;
      if (s && s.column === column && s.row === row && s.level === level) yield entity;
    }
  }

  /** Follows the server's clock: at once when a tick comes sooner than thought, slowly when later. */
  #hearTick(tick, now) {
    const offset = tick * this.#tickMs - now;
    if (this.#clockOffset === null || Math.abs(offset - this.#clockOffset) > 1_000) this.#clockOffset = offset;
    else if (offset > this.#clockOffset) this.#clockOffset = offset;
    else this.#clockOffset += (offset - this.#clockOffset) * 0.02;
  }

  /** The tick the server is probably at. */
  tickNow(now) {
    return this.#clockOffset === null ? 0 : Math.max(0, Math.floor((now + this.#clockOffset) / this.#tickMs));
  }

  /** Where to draw a walker now: `{x, y, z, yaw, speed}`, speed in mm/s. */
  poseAt(entity, now) {
    if (entity.id === this.playerId && this.ownPlayer) return this.ownPlayer.poseAt(now);
    const delay = entity.id === this.playerId ? OWN_DELAY_MS : OTHERS_DELAY_MS;
    return interpolate(entity.samples, now + (this.#clockOffset ?? 0) - delay);
  }
}

/** The name of a chunk in `WorldView.chunks`. */
export function chunkKey(x, z) {
  return `${x},${z}`;
}

/** The pose at `time` on a path of samples that are sorted by time; before the first and after the last it stands. */
export function interpolate(samples, time) {
  const last = samples.length - 1;
  if (time >= samples[last].at) return { ...samples[last], speed: 0 };
  let i = last;
  while (i > 0 && samples[i - 1].at > time) i -= 1;
  if (i === 0) return { ...samples[0], speed: 0 };
  const a = samples[i - 1];
  const b = samples[i];
  const span = Math.max(1, b.at - a.at);
  const t = (time - a.at) / span;
  const turn = ((((b.yaw - a.yaw) % 65_536) + 98_304) % 65_536) - 32_768;
  return {
    x: a.x + (b.x - a.x) * t,
    y: a.y + (b.y - a.y) * t,
    z: a.z + (b.z - a.z) * t,
    yaw: a.yaw + turn * t,
    speed: (Math.hypot(b.x - a.x, b.z - a.z) / span) * 1_000,
  };
}
