// The messages of the wire, without a document. What a message holds is in `wire.generated.js`, made from the Rust types; here is what
// those do not say: which datagram is which, and the two layouts with a memory, views and steps. Motion packets are in `motion.js`, poses in
// `pose.js`.
//
// Every decoder throws an Error on input that ends early, has bytes left over or holds an impossible value.

import { Reader, Writer } from './codec.js';
import { decodeMotion } from './motion.js';
import { decodePoses } from './pose.js';
import {
  CLIENT_STEPS,
  MOTION_KIND,
  PONG_KIND,
  SERVER_POSES,
  SERVER_STEPS,
  readPong,
  readStepsFeedback,
  readViewOperation,
  writeAcks,
} from './wire.generated.js';

export * from './wire.generated.js';

/**
 * The payload of a view message: `{tick, operations}`, the operations in order, as `readViewOperation` gives them, without those that name a
 * chunk for what follows: of what stands, `enter` and `spawn`, each has its own `chunk`.
 */
export function decodeView(bytes) {
  const reader = new Reader(bytes);
  const tick = reader.u64();
  const operations = [];
  let chunk = null;
  while (reader.left > 0) {
    const operation = readViewOperation(reader);
    if (operation.kind === 'chunk') {
      chunk = operation.value;
      continue;
    }
    if (operation.kind === 'enter' || operation.kind === 'spawn') {
      if (!chunk) throw new Error('holds an introduction without a chunk');
      operation.chunk = chunk;
    }
    operations.push(operation);
  }
  return { tick, operations };
}

/** A datagram on the state channel, told apart by `kind`: `motion` (see `motion.js`), `pong`, `poses` (see `pose.js`) or `steps`. */
export function decodeServerDatagram(bytes) {
  const reader = new Reader(bytes);
  const kind = reader.u8();
  switch (kind) {
    case MOTION_KIND:
      return decodeMotion(bytes);
    case PONG_KIND:
      return reader.finish({ kind: 'pong', ...readPong(reader) });
    case SERVER_POSES:
      return { kind: 'poses', entries: decodePoses(reader) };
    case SERVER_STEPS:
      return reader.finish({ kind: 'steps', ...readStepsFeedback(reader) });
    default:
      throw new Error(`holds an unknown datagram kind ${kind}`);
  }
}

const MOVE_FIELDS = ['directionX', 'directionZ', 'yaw', 'sprint'];

/** The newest steps on the state channel, one per tick, the oldest first and numbered without gaps; instead of moves. */
export function encodeSteps(steps, acks) {
  const writer = new Writer();
  writer.u8(CLIENT_STEPS);
  const newest = steps.at(-1);
  writer.u32(newest.sequence);
  writer.u8(steps.length);
  let before = null;
  for (const step of steps.toReversed()) {
    const same = before && MOVE_FIELDS.every((field) => step[field] === before[field]);
    if (before) writer.bool(!same);
    if (!same) {
      writer.i8(step.directionX);
      writer.i8(step.directionZ);
      writer.u8(step.yaw % 256);
      writer.u8(Math.floor(step.yaw / 256));
      writer.bool(step.sprint);
    }
    before = step;
  }
  writer.bool(acks !== null);
  if (acks !== null) writeAcks(writer, acks);
  return writer.finish();
}
