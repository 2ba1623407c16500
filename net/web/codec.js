// Cursors over bytes and bits: what the codecs of `wire.generated.js` and the few by hand stand on.
//
// Values are postcard: unsigned integers of 16 bits and more are LEB128, signed ones zigzag LEB128, 8-bit ones one raw byte;
// texts and lists carry their length in front. Every read throws an Error on input that ends early or holds an impossible value,
// `finish` on bytes left over, and no loop runs longer than the input has bytes.

const textEncoder = new TextEncoder();
const textDecoder = new TextDecoder('utf-8', { fatal: true });

function requireRange(value, least, most, what) {
  if (!Number.isInteger(value) || value < least || value > most) {
    throw new RangeError(`${what} ${value} is not between ${least} and ${most}`);
  }
  return value;
}

/** Appends values to a growing list of bytes. */
export class Writer {
  constructor() {
    this.out = [];
  }

  bool(value) {
    this.out.push(value ? 1 : 0);
  }

  u8(value) {
    this.out.push(requireRange(value, 0, 0xff, 'u8'));
  }

  i8(value) {
    this.out.push(requireRange(value, -0x80, 0x7f, 'i8') & 0xff);
  }

  u16(value) {
    this.#varint(requireRange(value, 0, 0xffff, 'u16'));
  }

  i16(value) {
    this.#zigzag(requireRange(value, -0x8000, 0x7fff, 'i16'));
  }

  u32(value) {
    this.#varint(requireRange(value, 0, 0xffff_ffff, 'u32'));
  }

  i32(value) {
    this.#zigzag(requireRange(value, -0x8000_0000, 0x7fff_ffff, 'i32'));
  }

  /** Of the numbers of 64 bits those below 2^53. */
  u64(value) {
    this.#varint(requireRange(value, 0, Number.MAX_SAFE_INTEGER, 'u64'));
  }

  text(value) {
    if (typeof value !== 'string') throw new TypeError(`${value} is no text`);
    this.lengthPrefixed(textEncoder.encode(value));
  }

  lengthPrefixed(bytes) {
    this.#varint(bytes.length);
    for (const byte of bytes) this.out.push(byte);
  }

  /** Exactly `size` bytes, without their number. */
  fixed(bytes, size) {
    if (bytes.length !== size) throw new RangeError(`${bytes.length} bytes instead of ${size}`);
    for (const byte of bytes) this.out.push(byte);
  }

  finish() {
    return Uint8Array.from(this.out);
  }

  #varint(value) {
    while (value >= 0x80) {
      this.out.push((value % 0x80) | 0x80);
      value = Math.floor(value / 0x80);
    }
    this.out.push(value);
  }

  #zigzag(value) {
    this.#varint(value >= 0 ? value * 2 : -value * 2 - 1);
  }
}

/** A cursor over bytes that come from outside; every read is checked. */
export class Reader {
  constructor(bytes) {
    this.bytes = bytes instanceof Uint8Array ? bytes : new Uint8Array(bytes);
    this.at = 0;
  }

  get left() {
    return this.bytes.length - this.at;
  }

  u8() {
    if (this.at >= this.bytes.length) throw new Error('ends too early, 1 more byte expected');
    return this.bytes[this.at++];
  }

  i8() {
    return (this.u8() << 24) >> 24;
  }

  take(count) {
    if (count > this.left) throw new Error(`ends too early, ${count - this.left} more bytes expected`);
    const taken = this.bytes.subarray(this.at, this.at + count);
    this.at += count;
    return taken;
  }

  bool() {
    const value = this.u8();
    if (value > 1) throw new Error('holds an invalid bool');
    return value === 1;
  }

  u16() {
    return this.#varint(0xffff);
  }

  i16() {
    return this.#zigzag(0xffff);
  }

  u32() {
    return this.#varint(0xffff_ffff);
  }

  i32() {
    return this.#zigzag(0xffff_ffff);
  }

  /** Of the numbers of 64 bits those that a number holds exactly; others are refused. */
  u64() {
    return this.#varint(Number.MAX_SAFE_INTEGER);
  }

  /** Any number of 64 bits, as a BigInt. */
  u64Big() {
    let value = 0n;
    for (let shift = 0n; shift < 64n; shift += 7n) {
      const byte = this.u8();
      if (shift === 63n && (byte & 0x7f) > 1) throw new Error('holds an integer out of range');
      value |= BigInt(byte & 0x7f) << shift;
      if (byte < 0x80) return value;
    }
    throw new Error('holds an integer out of range');
  }

  lengthPrefixed() {
    return this.take(this.#count());
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
    const count = this.#count();
    const items = [];
    for (let i = 0; i < count; i += 1) items.push(readItem(this));
    return items;
  }

  finish(value) {
    if (this.left > 0) throw new Error(`has ${this.left} bytes too many`);
    return value;
  }

  #varint(most) {
    let value = this.u8();
    if (value < 0x80) return value;
    value -= 0x80;
    let weight = 0x80;
    for (let count = 1; count < 10; count += 1) {
      const byte = this.u8();
      value += (byte & 0x7f) * weight;
      if (byte < 0x80) {
        if (value > most) throw new Error(`holds an integer out of range: ${value}, at most ${most} is allowed`);
        return value;
      }
      weight *= 0x80;
    }
    throw new Error('holds an integer out of range');
  }

  #zigzag(most) {
    const raw = this.#varint(most);
    return raw % 2 === 0 ? raw / 2 : -(raw + 1) / 2;
  }

  /** A count, which can be no larger than the bytes that are left, since each counted thing takes at least one. */
  #count() {
    const count = this.u64();
    if (count > this.left) throw new Error(`holds a count of ${count}, at most ${this.left} is allowed`);
    return count;
  }
}

/** A cursor over bits, the least significant of each byte first; every read is checked. */
export class BitReader {
  #bytes;
  #at = 0;

  constructor(bytes) {
    this.#bytes = bytes instanceof Uint8Array ? bytes : new Uint8Array(bytes);
  }

  /** `count` bits as an unsigned number, at most 32. */
  read(count) {
    if (count > 24) {
      const low = this.read(16);
      return low + this.read(count - 16) * 0x1_0000;
    }
    const at = this.#at;
    const bytes = this.#bytes;
    if (at + count > bytes.length * 8) throw new Error('ends too early');
    this.#at = at + count;
    const first = at >>> 3;
    // What lies behind the end is undefined, which is as good as zero here.
    const window = bytes[first] | (bytes[first + 1] << 8) | (bytes[first + 2] << 16) | (bytes[first + 3] << 24);
    return (window >>> (at & 7)) & ((1 << count) - 1);
  }

  flag() {
    return this.read(1) === 1;
  }

  /** `count` bits of two's complement, 1 to 32. */
  signed(count) {
    const value = this.read(count);
    return value >= 2 ** (count - 1) ? value - 2 ** count : value;
  }

  /** How many ones stand before the next zero, which is read too; with `most` ones there is no zero. */
  ones(most) {
    let ones = 0;
    while (ones < most && this.flag()) ones += 1;
    return ones;
  }

  /** Requires that nothing but zeros that fill the last byte is left. */
  finish(value) {
    const left = this.#bytes.length * 8 - this.#at;
    if (left >= 8) throw new Error(`has ${Math.floor(left / 8)} bytes too many`);
    if (this.read(left) !== 0) throw new Error('holds an invalid padding');
    return value;
  }
}
