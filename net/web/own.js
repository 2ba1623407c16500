// The own player, ahead of the server: makes one step per tick, walks it at once, and is put right by what the server says.

import { widen } from './motion.js';
import { Pacer, Predictor } from './prediction.js';

/** Steps in a datagram: three losses in a row do no harm. */
const REDUNDANCY = 4;

export class OwnPlayer {
  #predictor;
  #pacer;
  #tickMs;
  #sequence;
  #newest = [];
  #before;
  #steppedAt = 0;

  /** `pose` is where the server has the player, `sequence` the last step's number. */
  constructor({ ground, gait, tickHz, pose, sequence }) {
    this.#predictor = new Predictor(ground, gait, tickHz, pose);
    this.#pacer = new Pacer(tickHz);
    this.#tickMs = 1_000 / Math.max(1, tickHz);
    this.#sequence = sequence;
    this.#before = this.#predictor.shown;
  }

  /** Makes the steps that are due, all towards `wish`; returns the newest to be sent, the oldest first, or null when none was due. */
  walk(now, wish) {
    const due = this.#pacer.due(now);
    for (let i = 0; i < due; i += 1) {
      this.#sequence = (this.#sequence + 1) >>> 0;
      const step = { sequence: this.#sequence, ...wish };
      this.#before = this.#predictor.shown;
      this.#predictor.advance(step);
      this.#newest.push(step);
    }
    if (due === 0) return null;
    this.#steppedAt = now;
    this.#newest.splice(0, this.#newest.length - REDUNDANCY);
    return this.#newest;
  }

  /** A motion packet has the player at `pose` (exact) after the step with these lowest 16 bits. */
  reconcile(newestInput, pose) {
    this.#predictor.reconcile(widen(newestInput, this.#sequence), pose);
  }

  /** The server said how early steps come. */
  feedback(now, slack) {
    this.#pacer.feedback(now, slack);
  }

  /** Number of the last step. */
  get sequence() {
    return this.#sequence;
  }

  /** How often the server was compared with, and how often it knew better: `{compared, corrected, errorSumMm, errorMaxMm}`. */
  get counts() {
    return this.#predictor.counts;
  }

  /** Where to draw the player at `now`, with its speed in mm/s. */
  poseAt(now) {
    const [a, b] = [this.#before, this.#predictor.shown];
    const t = Math.max(0, Math.min(1, (now - this.#steppedAt) / this.#tickMs));
    const between = (from, to) => from + (to - from) * t;
    const speed = (Math.hypot(b.x - a.x, b.z - a.z) * 1_000) / this.#tickMs;
    return { x: between(a.x, b.x), y: between(a.y, b.y), z: between(a.z, b.z), yaw: b.yaw, speed };
  }
}
