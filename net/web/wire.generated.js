// Made by `cargo xtask codecs` from the Rust types of the wire (`schema/src/wire/`, components in `sim/src/`). Not to be
// edited: a test compares it with what the types say now.

import { Reader, Writer } from './codec.js';

/** The protocol of this build. */
export const PROTOCOL_VERSION = 2;
/** Index of the unreliable, unordered channel. */
export const CHANNEL_STATE = 0;
/** Index of the reliable, ordered channel. */
export const CHANNEL_COMMAND = 1;
/** Longest player name, characters. */
export const NAME_CHARS_MAX = 24;
/** Side of a chunk, millimetres. */
export const CHUNK_MM = 32000;
/** Most chunks that are kept in mind. */
export const CHUNKS_IN_MIND_MAX = 256;
/** First byte of a motion packet. */
export const MOTION_KIND = 1;
/** First byte of a pong. */
export const PONG_KIND = 2;
/** First byte of the shard's datagram with poses. */
export const SERVER_POSES = 3;
/** First byte of the shard's datagram about steps. */
export const SERVER_STEPS = 4;
/** First byte of a client's datagram with a pose. */
export const CLIENT_POSE = 2;
/** First byte of a client's datagram with steps. */
export const CLIENT_STEPS = 3;
/** Most steps in one datagram. */
export const STEPS_MAX = 8;
/** Millimetres of a quantum of position. */
export const QUANTUM_MM = 8;
/** How far back states are kept, ticks. */
export const HISTORY_TICKS = 254;
/** Bits of a packet's count of entities. */
export const COUNT_BITS = 10;
/** Bits of the gaps' parameter. */
export const RICE_BITS = 4;
/** So many ones in a gap mean that the slot follows. */
export const GAP_ONES_MAX = 15;
/** Bits of a slot that is told whole. */
export const SLOT_BITS = 16;
/** Bits of an age. */
export const AGE_BITS = 7;
/** Bits of each axis of a difference, by class. */
export const STEP_BITS = Object.freeze([0, 5, 8, 12]);
/** What is tracked, by number. */
export const POSE_PARTS = Object.freeze([
  'head', 'left_hand', 'right_hand', 'hips', 'chest', 'left_foot', 'right_foot', 'left_knee',
  'right_knee', 'left_elbow', 'right_elbow',
]);
/** Layers of poses, by number. */
export const POSE_LAYERS = Object.freeze([
  'key', 'anchor', 'half', 'full',
]);
/** How far back each layer usually refers, slots. */
export const POSE_USUAL_DISTANCES = Object.freeze([0, 4, 2, 1]);
/** Poses a second, at most. */
export const POSE_SLOTS_PER_S = 60;
/** Longest encoded pose. */
export const POSE_BYTES_MAX = 160;
/** Bits of a key pose's slot. */
export const POSE_SLOT_BITS = 16;
/** Bits of other poses' slots. */
export const POSE_SHORT_BITS = 6;
/** Bits of a distance that is not usual. */
export const POSE_DISTANCE_BITS = 4;
/** The mask of head and both hands. */
export const POSE_HEAD_AND_HANDS = 7;
/** Bits of a head's coordinate in a key pose. */
export const POSE_HEAD_BITS = 13;
/** Bits of other parts' coordinates there. */
export const POSE_PART_BITS = 12;
/** Bits of the number of the left-out part. */
export const POSE_LEFT_OUT_BITS = 2;
/** Bits of a rotation's part in a key pose. */
export const POSE_ROTATION_BITS = 11;
/** Slots that a receiver remembers. */
export const POSE_REMEMBERED = 32;
/** After such a silence all is forgotten. */
export const POSE_SILENCE_MS = 500;
/** A key pose further off begins anew. */
export const POSE_RESTART_SLOTS = 128;
/** The parameters of a key pose: of places, of rotations. */
export const POSE_KEY_PARAMETERS = Object.freeze([4, 3]);
/** Lowest bits of a number, by parameter. */
export const POSE_PARAMETERS = Object.freeze([0, 1, 2, 3, 4, 5, 6, 8]);
/** Bits of a parameter. */
export const POSE_PARAMETER_BITS = 3;
/** So many ones mean that the number follows plainly. */
export const POSE_ONES_MAX = 12;
/** Bits of such a number. */
export const POSE_PLAIN_BITS = 17;
/** What 1 is in a rotation's parts. */
export const ROTATION_ONE = 820;
/** No part but the left-out one is larger. */
export const ROTATION_PART_MAX = 580;
/** The left-out part is not smaller. */
export const ROTATION_LEFT_OUT_MIN = 406;

/** What the variants of `Rejection` mean, in the order of their numbers. */
export const REJECTIONS = Object.freeze({
  NoSuchEntity: 'there is no such thing',
  NotHarvestable: 'that cannot be harvested',
  TooFar: 'too far away',
  Depleted: 'nothing is left of it for now',
  TooSoon: 'too soon after the last one',
  InventoryFull: 'the inventory is full',
  MissingItems: 'items are missing',
  UnknownRecipe: 'there is no such recipe',
  UnknownPiece: 'there is no such structure piece',
  OutOfRange: 'a value is out of range',
  OutsideWorld: 'outside the world',
  SpaceTaken: 'the space is taken',
  NotSupported: 'it would stand on nothing',
  SupportsOthers: 'other pieces stand on it',
  NotYours: 'it belongs to somebody else',
  ChunkFull: 'too much was built here already',
  EmptySlot: 'the slot is empty',
  OutOfTurn: "the command's number is out of turn",
  TooFrequent: 'commands come too fast',
  Busy: 'the shard is too busy',
  GroundTooSteep: 'the ground is too steep',
});

/** What the variants of `Refusal` mean, in the order of their numbers. */
export const REFUSALS = Object.freeze({
  WrongProtocol: 'another protocol version is needed',
  WrongTickRate: 'another tick rate is needed',
  BadToken: 'the token is not acceptable',
  BadName: 'the name is not acceptable',
  Malformed: 'a message could not be read',
  TooLarge: 'a message was too large',
  Flooding: 'too many messages',
  NotJoined: 'a hello must come first',
  AlreadyJoined: 'a hello was sent twice',
  ServerFull: 'the shard is full',
  JoinedElsewhere: 'the player joined from elsewhere',
  TimedOut: 'nothing was heard for too long',
  TooSlow: 'messages were not read fast enough',
  ShuttingDown: 'the shard is shutting down',
  Kicked: 'removed by an operator',
  Banned: 'banned by an operator',
  NotResumable: 'the session cannot be resumed any more',
});

/** Components' numbers on the wire. */
export const TAG = Object.freeze({
  placement: 1,
  pose: 2,
  resource: 3,
  structure: 4,
  player: 5,
  inventory: 6,
});

const REFUSAL_NAMES = [
  'WrongProtocol', 'WrongTickRate', 'BadToken', 'BadName', 'Malformed', 'TooLarge', 'Flooding',
  'NotJoined', 'AlreadyJoined', 'ServerFull', 'JoinedElsewhere', 'TimedOut', 'TooSlow',
  'ShuttingDown', 'Kicked', 'Banned', 'NotResumable',
];

const REJECTION_NAMES = [
  'NoSuchEntity', 'NotHarvestable', 'TooFar', 'Depleted', 'TooSoon', 'InventoryFull', 'MissingItems',
  'UnknownRecipe', 'UnknownPiece', 'OutOfRange', 'OutsideWorld', 'SpaceTaken', 'NotSupported',
  'SupportsOthers', 'NotYours', 'ChunkFull', 'EmptySlot', 'OutOfTurn', 'TooFrequent', 'Busy',
  'GroundTooSteep',
];

function readChunkKey(r) {
  return { x: r.i32(), z: r.i32() };
}

function readInventory(r) {
  return { slots: r.list(() => r.bool() ? readStack(r) : null) };
}

function readItemChange(r) {
  return { item: r.u16(), count: r.i32() };
}

function readOutcome(r) {
  const variant = r.u32();
  switch (variant) {
    case 0:
      return { kind: 'done', items: r.list(readItemChange), entity: r.u64() };
    case 1:
      return { kind: 'rejected', value: readRejection(r) };
    default:
      throw new Error(`holds an unknown Outcome ${variant}`);
  }
}

function readPlacement(r) {
  return { position: readPosition(r), yaw: r.u16() };
}

function readPlayerSeen(r) {
  return { name: r.text() };
}

export function readPong(r) {
  return { nonce: r.u32(), tick: r.u64() };
}

function readPose(r) {
  return { position: readPosition(r), yaw: r.u16() };
}

function readPosition(r) {
  return { x: r.i32(), y: r.i32(), z: r.i32() };
}

function readRefusal(r) {
  const number = r.u32();
  return REFUSAL_NAMES[number] ?? `Unknown${number}`;
}

function readRejection(r) {
  const number = r.u32();
  return REJECTION_NAMES[number] ?? `Unknown${number}`;
}

function readResourceNode(r) {
  return { kind: r.u16(), left: r.u16(), regrowAt: r.u64() };
}

function readServerMessage(r) {
  const variant = r.u32();
  switch (variant) {
    case 0:
      return {
        kind: 'welcome',
        protocol: r.u16(),
        tickHz: r.u8(),
        tick: r.u64(),
        player: r.u64(),
        seed: r.u64Big(),
        worldHalfMm: r.i32(),
        lastCommand: r.u32(),
        content: r.text(),
      };
    case 1:
      return { kind: 'refused', reason: readRefusal(r), message: r.text() };
    case 2:
      return { kind: 'result', sequence: r.u32(), frame: r.u64(), outcome: readOutcome(r) };
    case 3:
      return { kind: 'view', value: r.lengthPrefixed() };
    case 4:
      return { kind: 'resumable', secret: r.take(16).slice(), seconds: r.u16() };
    case 5:
      return { kind: 'resumed', tick: r.u64(), received: r.u32() };
    default:
      throw new Error(`holds an unknown ServerMessage ${variant}`);
  }
}

function readStack(r) {
  return { id: r.u64(), item: r.u16(), count: r.u16() };
}

export function readStepsFeedback(r) {
  return { taken: r.u32(), slack: r.i16() };
}

function readStructure(r) {
  return {
    piece: r.u16(),
    column: r.i32(),
    row: r.i32(),
    level: r.u8(),
    turn: r.u8(),
    owner: r.u64(),
    health: r.u16(),
  };
}

export function readViewOperation(r) {
  const variant = r.u32();
  switch (variant) {
    case 0:
      return { kind: 'chunk', value: readChunkKey(r) };
    case 1:
      return { kind: 'enter', id: r.u64(), components: r.list(() => [r.u16(), r.lengthPrefixed()]) };
    case 2:
      return { kind: 'spawn', id: r.u64(), components: r.list(() => [r.u16(), r.lengthPrefixed()]) };
    case 3:
      return {
        kind: 'enter_mover',
        id: r.u64(),
        slot: r.u16(),
        components: r.list(() => [r.u16(), r.lengthPrefixed()]),
      };
    case 4:
      return {
        kind: 'spawn_mover',
        id: r.u64(),
        slot: r.u16(),
        components: r.list(() => [r.u16(), r.lengthPrefixed()]),
      };
    case 5:
      return { kind: 'own', id: r.u64(), components: r.list(() => [r.u16(), r.lengthPrefixed()]) };
    case 6:
      return { kind: 'change', id: r.u64(), components: r.list(() => [r.u16(), r.lengthPrefixed()]) };
    case 7:
      return { kind: 'despawn', value: r.u64() };
    case 8:
      return { kind: 'leave', value: r.u64() };
    case 9:
      return { kind: 'leave_chunk', value: readChunkKey(r) };
    case 10:
      return { kind: 'recall_chunk', value: readChunkKey(r) };
    case 11:
      return { kind: 'forget_chunk', value: readChunkKey(r) };
    default:
      throw new Error(`holds an unknown ViewOperation ${variant}`);
  }
}

/** A whole message `ServerMessage`. */
export function decodeServerMessage(bytes) {
  const r = new Reader(bytes);
  return r.finish(readServerMessage(r));
}

/** One component: `{name, value}`, or null when its tag is not known: then it is to be skipped. */
export function decodeComponent(tag, bytes) {
  const r = new Reader(bytes);
  switch (tag) {
    case 1:
      return r.finish({ name: 'placement', value: readPlacement(r) });
    case 2:
      return r.finish({ name: 'pose', value: readPose(r) });
    case 3:
      return r.finish({ name: 'resource', value: readResourceNode(r) });
    case 4:
      return r.finish({ name: 'structure', value: readStructure(r) });
    case 5:
      return r.finish({ name: 'player', value: readPlayerSeen(r) });
    case 6:
      return r.finish({ name: 'inventory', value: readInventory(r) });
    default:
      return null;
  }
}

export function writeAcks(w, v) {
  w.u16(v.newest);
  w.u32(v.before);
}

function writeClientDatagram(w, v) {
  switch (v.kind) {
    case 'move':
      w.u32(0);
      writeMoveInput(w, v.step);
      w.bool(v.acks !== null);
      if (v.acks !== null) writeAcks(w, v.acks);
      break;
    case 'ping':
      w.u32(1);
      w.u32(v.nonce);
      w.bool(v.acks !== null);
      if (v.acks !== null) writeAcks(w, v.acks);
      break;
    default:
      throw new Error(`there is no ClientDatagram ${v.kind}`);
  }
}

function writeClientMessage(w, v) {
  switch (v.kind) {
    case 'hello':
      w.u32(0);
      w.u16(v.protocol);
      w.text(v.token);
      w.text(v.name);
      w.u8(v.tickHz);
      break;
    case 'command':
      w.u32(1);
      w.u32(v.sequence);
      writeCommand(w, v.command);
      break;
    case 'goodbye':
      w.u32(2);
      break;
    case 'resume':
      w.u32(3);
      w.u16(v.protocol);
      w.fixed(v.secret, 16);
      w.u32(v.results);
      break;
    case 'seen':
      w.u32(4);
      w.u32(v.results);
      break;
    default:
      throw new Error(`there is no ClientMessage ${v.kind}`);
  }
}

function writeCommand(w, v) {
  switch (v.kind) {
    case 'harvest':
      w.u32(0);
      w.u64(v.node);
      break;
    case 'craft':
      w.u32(1);
      w.u16(v.recipe);
      break;
    case 'build':
      w.u32(2);
      w.u16(v.piece);
      w.i32(v.column);
      w.i32(v.row);
      w.u8(v.level);
      w.u8(v.turn);
      break;
    case 'demolish':
      w.u32(3);
      w.u64(v.structure);
      break;
    case 'move_items':
      w.u32(4);
      w.u8(v.from);
      w.u8(v.to);
      w.u16(v.count);
      break;
    default:
      throw new Error(`there is no Command ${v.kind}`);
  }
}

function writeMoveInput(w, v) {
  w.u32(v.sequence);
  w.i8(v.directionX);
  w.i8(v.directionZ);
  w.u16(v.yaw);
  w.bool(v.sprint);
}

/** The bytes of the message `ClientMessage`. */
export function encodeClientMessage(v) {
  const w = new Writer();
  writeClientMessage(w, v);
  return w.finish();
}

/** The bytes of the message `ClientDatagram`. */
export function encodeClientDatagram(v) {
  const w = new Writer();
  writeClientDatagram(w, v);
  return w.finish();
}

/** The bits of `OwnPose`; `r` is a `BitReader`. */
export function readOwnPose(r) {
  return { x: r.signed(32), z: r.signed(32), yaw: r.read(16), y: r.flag() ? null : r.signed(32) };
}

/** The bits of `MotionHead`; `r` is a `BitReader`. */
export function readMotionHead(r) {
  return {
    number: r.read(16),
    tick: r.read(16),
    newestInput: r.read(16),
    own: r.flag() ? readOwnPose(r) : null,
  };
}

/** The bits of `Motion`; `r` is a `BitReader`. */
export function readMotion(r) {
  return { x: r.signed(29), z: r.signed(29), yaw: r.read(8), y: r.flag() ? null : r.signed(20) };
}

const STEP_WIDTHS = [0, 5, 8, 12];

/** The bits of `Step`; `r` is a `BitReader`. */
export function readStep(r) {
  const width = STEP_WIDTHS[r.read(2)];
  return {
    dx: width === 0 ? 0 : r.signed(width),
    dz: width === 0 ? 0 : r.signed(width),
    yaw: r.flag() ? r.read(8) : null,
    y: r.flag() ? null : r.signed(20),
  };
}
