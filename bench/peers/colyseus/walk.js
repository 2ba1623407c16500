// What the room and its clients have in common, and how one walks.

/** Patches, and messages of each client, a second. */
export const HZ = 20;

const STRIDE_M = 4 / HZ;

/** One that walks: straight on for a while, then somewhere else, as fast as people do. */
export class Walk {
  #heading = 0;
  #ticksLeft = 0;

  /** Begins somewhere within `radiusM` of the origin, evenly spread over the disc. */
  constructor(radiusM) {
    const distance = radiusM * Math.sqrt(Math.random());
    const angle = 2 * Math.PI * Math.random();
    this.x = distance * Math.cos(angle);
    this.z = distance * Math.sin(angle);
    this.sequence = 0;
  }

  /** One tick on. Gives back what is said about it: x, y, z and a number. The ground is level: what does not change costs nothing. */
  step() {
    if (this.#ticksLeft === 0) {
      this.#ticksLeft = 6 + Math.floor(54 * Math.random());
      this.#heading = 2 * Math.PI * Math.random();
    }
    this.#ticksLeft -= 1;
    this.x += STRIDE_M * Math.cos(this.#heading);
    this.z += STRIDE_M * Math.sin(this.#heading);
    this.sequence = (this.sequence + 1) & 0xffff;
    return [this.x, 0, this.z, this.sequence];
  }
}
