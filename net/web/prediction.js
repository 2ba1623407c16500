// The own player ahead of the server: the step of `sim/src/movement/mod.rs` to the millimetre, reconciliation, and clocks. The same kit
// as `net/src/prediction/`, specified in `schema/docs/movement.md` and checked against `schema/fixtures/movement_v1.json`. No document, no
// timers: times in milliseconds come in as arguments.

/** Inputs that are kept until a snapshot confirms them. */
const HISTORY_MAX = 128;
/** An error beyond this is not glided over: the player was moved. */
const SNAP_MM = 2_000;

/**
 * One tick of walking.
 *
 * @param ground `{terrain, halfMm}`; `terrain.height(x, z)` gives whole millimetres
 * @param gait `{walkMmS, sprintMmS, climbMmPerM}`
 * @param pose `{x, y, z, yaw}` in whole millimetres
 * @param input `{directionX, directionZ, yaw, sprint}`
 */
export function step(ground, gait, tickHz, pose, input) {
  const turned = { ...pose, yaw: input.yaw };
  const directionX = Math.max(-127, input.directionX);
  const directionZ = Math.max(-127, input.directionZ);
  if (directionX === 0 && directionZ === 0) return turned;
  const length = Math.max(127, Math.floor(Math.sqrt(directionX * directionX + directionZ * directionZ)));
  const speed = input.sprint ? gait.sprintMmS : gait.walkMmS;
  const dx = divideRounded(directionX * speed, length * tickHz);
  const dz = divideRounded(directionZ * speed, length * tickHz);
  const attempts = [
    [dx, dz],
    [dx, 0],
    [0, dz],
  ];
  for (const [east, south] of attempts) {
    if (east === 0 && south === 0) continue;
    const x = pose.x + east;
    const z = pose.z + south;
    if (Math.abs(x) > ground.halfMm || Math.abs(z) > ground.halfMm) continue;
    const y = ground.terrain.height(x, z);
    const rise = y - ground.terrain.height(pose.x, pose.z);
    if (rise <= 0 || !isTooSteep(rise, east, south, gait.climbMmPerM)) return { ...turned, x, y, z };
  }
  return turned;
}

/** Half away from zero. The products stay far below 2^53. */
function divideRounded(numerator, denominator) {
  const rounded = Math.floor((Math.abs(numerator) * 2 + denominator) / (denominator * 2));
  return numerator < 0 ? 0 - rounded : rounded;
}

/** rise ÷ run > climb ÷ 1000, squared; as big integers, since fast steps pass 2^53. */
function isTooSteep(rise, east, south, climbMmPerM) {
  const risen = BigInt(rise) * 1_000n;
  const climb = BigInt(climbMmPerM);
  return risen * risen > BigInt(east * east + south * south) * climb * climb;
}

/** Whether sequence `a` comes after `b`; sequences wrap at 2^32. */
function isAfter(a, b) {
  return ((a - b) | 0) > 0;
}

/** The own player: moved by each input at once, put right by snapshots. */
export class Predictor {
  counts = { compared: 0, corrected: 0, errorSumMm: 0, errorMaxMm: 0 };

  #ground;
  #gait;
  #tickHz;
  #pose;
  #history = [];
  #confirmed = null;
  #glide = { x: 0, y: 0, z: 0 };

  constructor(ground, gait, tickHz, pose) {
    this.#ground = ground;
    this.#gait = gait;
    this.#tickHz = tickHz;
    this.#pose = { ...pose };
  }

  /** Where the player is by all inputs so far. */
  get pose() {
    return this.#pose;
  }

  /** Where to draw the player. */
  get shown() {
    const { x, y, z, yaw } = this.#pose;
    return { x: x + this.#glide.x, y: y + this.#glide.y, z: z + this.#glide.z, yaw };
  }

  /** Inputs that no snapshot has confirmed. */
  get unconfirmed() {
    return this.#history.length;
  }

  /** One tick: `input` has a `sequence` larger than the one before. */
  advance(input) {
    this.#pose = step(this.#ground, this.#gait, this.#tickHz, this.#pose, input);
    if (this.#history.length === HISTORY_MAX) this.#history.shift();
    this.#history.push({ input, after: this.#pose });
    for (const axis of ['x', 'y', 'z']) this.#glide[axis] = Math.trunc((this.#glide[axis] * 3) / 4);
    return this.#pose;
  }

  /** A snapshot has the player at `pose` after input `taken`. Gives the error in millimetres, 0 when all is well, null when stale. */
  reconcile(taken, pose) {
    if (this.#confirmed !== null && !isAfter(taken, this.#confirmed)) return null;
    this.#confirmed = taken;
    let known = null;
    while (this.#history.length > 0 && !isAfter(this.#history[0].input.sequence, taken)) {
      const { input, after } = this.#history.shift();
      known = input.sequence === taken ? after : null;
    }
    this.counts.compared += 1;
    if (known && known.x === pose.x && known.y === pose.y && known.z === pose.z && known.yaw === pose.yaw) return 0;
    const before = this.#pose;
    this.#pose = { x: pose.x, y: pose.y, z: pose.z, yaw: pose.yaw };
    for (const entry of this.#history) {
      this.#pose = step(this.#ground, this.#gait, this.#tickHz, this.#pose, entry.input);
      entry.after = this.#pose;
    }
    const errors = { x: before.x - this.#pose.x, y: before.y - this.#pose.y, z: before.z - this.#pose.z };
    const errorMm = Math.floor(Math.hypot(errors.x, errors.y, errors.z));
    for (const axis of ['x', 'y', 'z']) this.#glide[axis] += errors[axis];
    const far = Object.values(this.#glide).some((part) => Math.abs(part) > SNAP_MM);
    if (errorMm > SNAP_MM || far) this.#glide = { x: 0, y: 0, z: 0 };
    this.counts.corrected += 1;
    this.counts.errorSumMm += errorMm;
    this.counts.errorMaxMm = Math.max(this.counts.errorMaxMm, errorMm);
    return errorMm;
  }
}

/** Pings that are remembered. */
const SAMPLES_MAX = 16;
/** A difference up to this is taken up slowly, so that nothing on the screen jumps. */
const JUMP_MS = 250;
/** Milliseconds that the clock is put right per millisecond. */
const SLEW = 0.05;

/** Which tick the server is at, from pings: the quickest of late count (RFC 5905, section 10), and of these the median. */
export class ClockSync {
  #tickMs;
  #samples = [];
  #shown = null;

  constructor(tickHz) {
    this.#tickMs = 1_000 / Math.max(1, tickHz);
  }

  /** A ping sent at `sent` came back at `now`; the server answered at `tick`. */
  pong(sent, now, tick) {
    const roundTrip = Math.max(0, now - sent);
    // The server was somewhere within the tick.
    const offset = (tick + 0.5) * this.#tickMs + roundTrip / 2 - now;
    if (this.#samples.length === SAMPLES_MAX) this.#samples.shift();
    this.#samples.push({ roundTrip, offset });
  }

  /** The quickest round trip of late, or null before the first pong. */
  get roundTrip() {
    return this.#samples.length === 0 ? null : Math.min(...this.#samples.map((sample) => sample.roundTrip));
  }

  /** The server's time minus ours by the pings that count, or null. */
  get offset() {
    if (this.#samples.length === 0) return null;
    const limit = this.roundTrip * 1.25 + 2;
    const counting = this.#samples.filter((sample) => sample.roundTrip <= limit).map((sample) => sample.offset);
    counting.sort((a, b) => a - b);
    return counting[Math.floor(counting.length / 2)];
  }

  /** The tick the server is at, with its fraction, or null. Runs back only when it was wrong by more than a quarter of a second. */
  tickAt(now) {
    const wanted = this.offset;
    if (wanted === null) return null;
    let offset = wanted;
    if (this.#shown && Math.abs(wanted - this.#shown.offset) <= JUMP_MS) {
      const most = Math.max(0, now - this.#shown.now) * SLEW;
      offset = this.#shown.offset + Math.max(-most, Math.min(most, wanted - this.#shown.offset));
    }
    this.#shown = { offset, now };
    return Math.max(0, (now + offset) / this.#tickMs);
  }
}

/** How early the latest inputs shall come, ticks. */
const SLACK_WANTED = 1;
/** So many ticks too late are made good at once. */
const LEAP_TICKS = 3;
/** Most inputs that are due at once; after a longer pause the rest is left out. */
const TICKS_AT_ONCE_MAX = 16;
/** After a leap, feedback of before it is not listened to. */
const DEAF_MS = 1_000;

/** When inputs are made: one per tick, a little faster or slower than the server as its feedback asks. */
export class Pacer {
  #tickMs;
  #rate = 1;
  #at = null;
  #left = 0;
  #leap = 0;
  #deafUntil = -Infinity;

  constructor(tickHz) {
    this.#tickMs = 1_000 / Math.max(1, tickHz);
  }

  /** The server said by how many ticks the latest inputs came early; below 0 they came too late. */
  feedback(now, slack) {
    if (now < this.#deafUntil) return;
    const short = SLACK_WANTED - slack;
    if (short > LEAP_TICKS) {
      this.#leap = Math.min(short, TICKS_AT_ONCE_MAX);
      this.#rate = 1;
      this.#deafUntil = now + DEAF_MS;
    } else if (short > 0) this.#rate = 1.03;
    else if (short === 0) this.#rate = 1;
    else this.#rate = short === -1 ? 0.995 : 0.97;
  }

  /** How many inputs are to be made now. */
  due(now) {
    const since = this.#at === null ? 0 : Math.max(0, now - this.#at);
    this.#at = this.#at === null ? now : Math.max(this.#at, now);
    this.#left += Math.min(since, this.#tickMs * TICKS_AT_ONCE_MAX) * this.#rate;
    const ticks = Math.floor(this.#left / this.#tickMs);
    this.#left -= ticks * this.#tickMs;
    const due = Math.min(TICKS_AT_ONCE_MAX, ticks + this.#leap);
    this.#leap = 0;
    return due;
  }
}
