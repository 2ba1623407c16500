// The wire format, as pure functions without a document: what `schema/src/wire/` says in Rust, said again in JavaScript.
// Motion packets are in `motion.js`.
//
// Values are postcard: unsigned integers of 16 bits and more are LEB128, signed ones zigzag LEB128, 8-bit ones one raw byte;
// texts and lists carry their length in front. Every decoder throws an Error on input that ends early, has bytes left over
// or holds an impossible value, and no loop runs longer than the input has bytes.

import { decodeMotion } from './motion.js';

export const PROTOCOL_VERSION = 2;
/** Index of the unreliable, unordered channel: movement up, snapshots down. */
export const CHANNEL_STATE = 0;
/** Index of the reliable, ordered channel: hello, commands and results, what comes into view. */
export const CHANNEL_COMMAND = 1;

/** Component numbers on the wire. */
export const TAG = Object.freeze({ placement: 1, pose: 2, resource: 3, structure: 4, player: 5, inventory: 6 });

/** Why a command was not executed; the place in the list is the number on the wire (`Rejection`). */
export const REJECTIONS = Object.freeze([
  ['NoSuchEntity', 'there is no such thing'],
  ['NotHarvestable', 'that cannot be harvested'],
  ['TooFar', 'too far away'],
  ['Depleted', 'nothing is left of it for now'],
  ['TooSoon', 'too soon after the last one'],
  ['InventoryFull', 'the inventory is full'],
  ['MissingItems', 'items are missing'],
  ['UnknownRecipe', 'there is no such recipe'],
  ['UnknownPiece', 'there is no such structure piece'],
  ['OutOfRange', 'a value is out of range'],
  ['OutsideWorld', 'outside the world'],
  ['SpaceTaken', 'the space is taken'],
  ['NotSupported', 'it would stand on nothing'],
  ['SupportsOthers', 'other pieces stand on it'],
  ['NotYours', 'it belongs to somebody else'],
  ['ChunkFull', 'too much was built here already'],
  ['EmptySlot', 'the slot is empty'],
  ['OutOfTurn', "the command's number is out of turn"],
  ['TooFrequent', 'commands come too fast'],
  ['Busy', 'the shard is too busy'],
  ['GroundTooSteep', 'the ground is too steep'],
]);

/** Why a connection was refused or ended; the place in the list is the number on the wire (`Refusal`). */
export const REFUSALS = Object.freeze([
  ['WrongProtocol', 'another protocol version is needed'],
  ['WrongTickRate', 'another tick rate is needed'],
  ['BadToken', 'the token is not acceptable'],
  ['BadName', 'the name is not acceptable'],
  ['Malformed', 'a message could not be read'],
  ['TooLarge', 'a message was too large'],
  ['Flooding', 'too many messages'],
  ['NotJoined', 'a hello must come first'],
  ['AlreadyJoined', 'a hello was sent twice'],
  ['ServerFull', 'the shard is full'],
  ['JoinedElsewhere', 'the player joined from elsewhere'],
  ['TimedOut', 'nothing was heard for too long'],
  ['TooSlow', 'messages were not read fast enough'],
  ['ShuttingDown', 'the shard is shutting down'],
  ['Kicked', 'removed by an operator'],
  ['Banned', 'banned by an operator'],
  ['NotResumable', 'the session cannot be resumed any more'],
]);

const textEncoder = new TextEncoder();
const textDecoder = new TextDecoder('utf-8', { fatal: true });

/** Appends values to a growing list of bytes. */
class Writer {
  constructor() {
    this.out = [];
  }

  byte(value) {
    this.out.push(requireRange(value, 0, 255, 'byte'));
  }

  signedByte(value) {
    this.out.push(requireRange(value, -128, 127, 'signed byte') & 0xff);
  }

  bool(value) {
    this.out.push(value ? 1 : 0);
  }

  /** An unsigned integer below 2^53. */
  varint(value) {
    requireRange(value, 0, Number.MAX_SAFE_INTEGER, 'unsigned integer');
    while (value >= 0x80) {
      this.out.push((value % 0x80) | 0x80);
      value = Math.floor(value / 0x80);
    }
    this.out.push(value);
  }

  /** A signed integer below 2^52 either way, in zigzag form. */
  zigzag(value) {
    requireRange(value, -(2 ** 52), 2 ** 52 - 1, 'signed integer');
    this.varint(value >= 0 ? value * 2 : -value * 2 - 1);
  }

  text(value) {
    const bytes = textEncoder.encode(value);
    this.varint(bytes.length);
    for (const byte of bytes) this.out.push(byte);
  }

  finish() {
    return Uint8Array.from(this.out);
  }
}

function requireRange(value, least, most, what) {
  if (!Number.isInteger(value) || value < least || value > most) {
    throw new RangeError(`${what} ${value} is not between ${least} and ${most}`);
  }
  return value;
}

/** A cursor over bytes that come from outside; every read is checked. */
class Reader {
  constructor(bytes) {
    this.bytes = bytes instanceof Uint8Array ? bytes : new Uint8Array(bytes);
    this.at = 0;
  }

  get left() {
    return this.bytes.length - this.at;
  }

  byte() {
    if (this.left < 1) throw new Error('ends too early, 1 more byte expected');
    return this.bytes[this.at++];
  }

  take(count) {
    if (count > this.left) throw new Error(`ends too early, ${count - this.left} more bytes expected`);
    const taken = this.bytes.subarray(this.at, this.at + count);
    this.at += count;
    return taken;
  }

  bool() {
    const value = this.byte();
    if (value > 1) throw new Error('holds an invalid bool');
    return value === 1;
  }

  /** An unsigned integer of up to 64 bits as a BigInt. */
  varintBig() {
    let value = 0n;
    for (let shift = 0n; shift < 64n; shift += 7n) {
      const byte = this.byte();
      if (shift === 63n && (byte & 0x7f) > 1) throw new Error('holds an integer out of range');
      value |= BigInt(byte & 0x7f) << shift;
      if (byte < 0x80) return value;
    }
    throw new Error('holds an integer out of range');
  }

  /** An unsigned integer of up to 64 bits; rounded to the nearest number when it needs more than 53. */
  varintRounded() {
    let value = 0;
    let weight = 1;
    for (let count = 0; count < 10; count += 1) {
      const byte = this.byte();
      if (count === 9 && (byte & 0x7f) > 1) throw new Error('holds an integer out of range');
      value += (byte & 0x7f) * weight;
      if (byte < 0x80) return value;
      weight *= 0x80;
    }
    throw new Error('holds an integer out of range');
  }

  /** An unsigned integer that is at most `most`, by default the largest exact number. */
  varint(most = Number.MAX_SAFE_INTEGER) {
    const value = this.varintRounded();
    if (value > most) throw new Error(`holds an integer out of range: ${value}, at most ${most} is allowed`);
    return value;
  }

  u16() {
    return this.varint(0xffff);
  }

  u32() {
    return this.varint(0xffff_ffff);
  }

  i32() {
    const raw = this.u32();
    return raw % 2 === 0 ? raw / 2 : -(raw + 1) / 2;
  }

  /** A count, which can be no larger than the bytes that are left, since each counted thing takes at least one. */
  count() {
    const count = this.varintRounded();
    if (count > this.left) throw new Error(`holds a count of ${count}, at most ${this.left} is allowed`);
    return count;
  }

  lengthPrefixed() {
    return this.take(this.count());
  }

  text() {
    const bytes = this.lengthPrefixed();
    try {
      return textDecoder.decode(bytes);
    } catch {
      throw new Error('holds invalid UTF-8 text');
    }
  }

  list(readItem) {
    const count = this.count();
    const items = [];
    for (let i = 0; i < count; i += 1) items.push(readItem(this));
    return items;
  }

  option(readItem) {
    return this.bool() ? readItem(this) : null;
  }

  finish(value) {
    if (this.left > 0) throw new Error(`has ${this.left} bytes too many`);
    return value;
  }
}

// ---- From the client ------------------------------------------------------------------------------------------------

/** The first message on the command channel. `tickHz` 0 takes the server's rate. */
export function encodeHello({ token, name, protocol = PROTOCOL_VERSION, tickHz = 0 }) {
  const writer = new Writer();
  writer.varint(0);
  writer.varint(protocol);
  writer.text(token);
  writer.text(name);
  writer.byte(tickHz);
  return writer.finish();
}

/**
 * A command on the command channel. `command.kind` is one of
 * `harvest {node}`, `craft {recipe}`, `build {piece, column, row, level, turn}`, `demolish {structure}`,
 * `move_items {from, to, count}` (count 0 = all).
 */
export function encodeCommand(sequence, command) {
  const writer = new Writer();
  writer.varint(1);
  writer.varint(sequence);
  switch (command.kind) {
    case 'harvest':
      writer.varint(0);
      writer.varint(command.node);
      break;
    case 'craft':
      writer.varint(1);
      writer.varint(command.recipe);
      break;
    case 'build':
      writer.varint(2);
      writer.varint(command.piece);
      writer.zigzag(command.column);
      writer.zigzag(command.row);
      writer.byte(command.level);
      writer.byte(command.turn);
      break;
    case 'demolish':
      writer.varint(3);
      writer.varint(command.structure);
      break;
    case 'move_items':
      writer.varint(4);
      writer.byte(command.from);
      writer.byte(command.to);
      writer.varint(command.count);
      break;
    default:
      throw new Error(`unknown command ${command.kind}`);
  }
  return writer.finish();
}

/** Says on the command channel that the client leaves of its own accord. */
export function encodeGoodbye() {
  return Uint8Array.of(2);
}

/** Instead of a hello: goes on with a session after its connection was lost. `secret` are the 16 bytes of `resumable`. */
export function encodeResume({ secret, results, protocol = PROTOCOL_VERSION }) {
  const writer = new Writer();
  writer.varint(3);
  writer.varint(protocol);
  for (const byte of secret) writer.byte(byte);
  writer.varint(results);
  return writer.finish();
}

/** Says how many results came in this session. */
export function encodeSeen(results) {
  const writer = new Writer();
  writer.varint(4);
  writer.varint(results);
  return writer.finish();
}

const MOVE_FIELDS = ['directionX', 'directionZ', 'yaw', 'sprint'];

/** The newest steps on the state channel, one per tick, the oldest first and numbered without gaps; instead of moves. */
export function encodeSteps(steps, acks) {
  const writer = new Writer();
  writer.byte(3);
  const newest = steps.at(-1);
  writer.varint(newest.sequence);
  writer.byte(steps.length);
  let before = null;
  for (const step of steps.toReversed()) {
    const same = before && MOVE_FIELDS.every((field) => step[field] === before[field]);
    if (before) writer.bool(!same);
    if (!same) {
      writer.signedByte(step.directionX);
      writer.signedByte(step.directionZ);
      writer.byte(step.yaw % 256);
      writer.byte(Math.floor(step.yaw / 256));
      writer.bool(step.sprint);
    }
    before = step;
  }
  writeAcks(writer, acks);
  return writer.finish();
}

/** Asks on the state channel for an immediate pong with the same nonce. */
export function encodePing({ nonce, acks }) {
  const writer = new Writer();
  writer.varint(1);
  writer.varint(nonce);
  writeAcks(writer, acks);
  return writer.finish();
}

function writeAcks(writer, acks) {
  writer.bool(acks !== null);
  if (acks === null) return;
  writer.varint(acks.newest);
  writer.varint(acks.before);
}

// ---- From the shard -------------------------------------------------------------------------------------------------

/**
 * A message on the command channel, told apart by `kind`: `welcome` (with `content` still as JSON text and `seed` a BigInt),
 * `refused`, `result`, `view`, whose `payload` is for `decodeView`, `resumable` or `resumed`.
 */
export function decodeServerMessage(bytes) {
  const reader = new Reader(bytes);
  const variant = reader.varint();
  switch (variant) {
    case 0:
      return reader.finish({
        kind: 'welcome',
        protocol: reader.u16(),
        tickHz: reader.byte(),
        tick: reader.varint(),
        player: reader.varint(),
        seed: reader.varintBig(),
        worldHalfMm: reader.i32(),
        lastCommand: reader.u32(),
        content: reader.text(),
      });
    case 1: {
      const [reason, text] = reasonOf(REFUSALS, reader.varint());
      return reader.finish({ kind: 'refused', reason, text, message: reader.text() });
    }
    case 2:
      return reader.finish({
        kind: 'result',
        sequence: reader.u32(),
        frame: reader.varint(),
        outcome: readOutcome(reader),
      });
    case 3:
      return reader.finish({ kind: 'view', payload: reader.lengthPrefixed() });
    case 4:
      return reader.finish({ kind: 'resumable', secret: reader.take(16).slice(), seconds: reader.u16() });
    case 5:
      return reader.finish({ kind: 'resumed', tick: reader.varint(), received: reader.u32() });
    default:
      throw new Error(`holds an unknown server message ${variant}`);
  }
}

/** A newer shard may know more reasons than this client: they are named by number instead of being refused. */
function reasonOf(reasons, number) {
  return reasons[number] ?? [`Unknown${number}`, `reason ${number}`];
}

function readOutcome(reader) {
  const variant = reader.varint();
  if (variant === 0) {
    const items = reader.list(() => ({ item: reader.u16(), count: reader.i32() }));
    return { done: true, items, entity: reader.varint() };
  }
  if (variant === 1) {
    const [reason, text] = reasonOf(REJECTIONS, reader.varint());
    return { done: false, reason, text };
  }
  throw new Error(`holds an unknown outcome ${variant}`);
}

/**
 * The payload of a view message: `{tick, operations}`, the operations in order, told apart by `kind`:
 * `introduce {spawned, id, chunk | slot | own, components}`, `change {id, components}`, `despawn {id}`, `leave {id}`,
 * `leaveChunk`, `recallChunk` and `forgetChunk {chunk}`; a chunk is `{x, z}`, a component `{tag, bytes}`.
 */
export function decodeView(bytes) {
  const reader = new Reader(bytes);
  const tick = reader.varint();
  const operations = [];
  let scope = null;
  while (reader.left > 0) {
    const kind = reader.byte();
    if (kind === 0) {
      scope = readChunk(reader);
    } else if (kind <= 5) {
      const operation = { kind: 'introduce', spawned: kind === 2 || kind === 4, id: reader.varint() };
      if (kind <= 2) {
        if (!scope) throw new Error('holds an introduction without a chunk');
        operation.chunk = scope;
      } else if (kind <= 4) {
        operation.slot = reader.u16();
      } else {
        operation.own = true;
      }
      operation.components = readComponents(reader);
      operations.push(operation);
    } else if (kind === 6) {
      operations.push({ kind: 'change', id: reader.varint(), components: readComponents(reader) });
    } else if (kind === 7 || kind === 8) {
      operations.push({ kind: kind === 7 ? 'despawn' : 'leave', id: reader.varint() });
    } else if (kind <= 11) {
      const kinds = ['leaveChunk', 'recallChunk', 'forgetChunk'];
      operations.push({ kind: kinds[kind - 9], chunk: readChunk(reader) });
    } else {
      throw new Error(`holds an unknown view operation ${kind}`);
    }
  }
  return { tick, operations };
}

function readChunk(reader) {
  return { x: reader.i32(), z: reader.i32() };
}

function readComponents(reader) {
  return reader.list(() => ({ tag: reader.u16(), bytes: reader.lengthPrefixed() }));
}

/**
 * A datagram on the state channel: a motion packet (see `motion.js`), `pong {nonce, tick}`, or
 * `pace {taken, slack}`: how many ticks before their turn the steps come.
 */
export function decodeServerDatagram(bytes) {
  const reader = new Reader(bytes);
  const kind = reader.byte();
  if (kind === 1) return decodeMotion(bytes);
  if (kind === 2) return reader.finish({ kind: 'pong', nonce: reader.u32(), tick: reader.varint() });
  if (kind === 4) return reader.finish({ kind: 'pace', taken: reader.u32(), slack: reader.i32() });
  throw new Error(`holds an unknown datagram kind ${kind}`);
}

const componentReaders = {
  [TAG.placement]: ['placement', readPlace],
  [TAG.pose]: ['pose', readPlace],
  [TAG.resource]: [
    'resource',
    (reader) => ({ kind: reader.u16(), left: reader.u16(), regrowAt: reader.varintRounded() }),
  ],
  [TAG.structure]: [
    'structure',
    (reader) => ({
      piece: reader.u16(),
      column: reader.i32(),
      row: reader.i32(),
      level: reader.byte(),
      turn: reader.byte(),
      owner: reader.varintRounded(),
      health: reader.u16(),
    }),
  ],
  [TAG.player]: ['player', (reader) => ({ name: reader.text() })],
  [TAG.inventory]: [
    'inventory',
    (reader) => ({
      slots: reader.list(() =>
        reader.option(() => ({ id: reader.varintRounded(), item: reader.u16(), count: reader.u16() })),
      ),
    }),
  ],
};

function readPlace(reader) {
  return { x: reader.i32(), y: reader.i32(), z: reader.i32(), yaw: reader.u16() };
}

/** One component: `{name, value}`, or null when this client does not know the tag and should skip it. */
export function decodeComponent(tag, bytes) {
  const known = componentReaders[tag];
  if (!known) return null;
  const [name, read] = known;
  const reader = new Reader(bytes);
  return reader.finish({ name, value: read(reader) });
}
