/**
 * The part of MessagePack that messages are made of: nil, booleans, integers, doubles, strings, byte strings and arrays. No maps, no
 * extension types. One pass each way, with the bounds checked on it: a library that knows all of MessagePack was three times as slow, a
 * tenth of what a change of one name costs, and had to be guarded by a pass of its own.
 *
 * Format: https://github.com/msgpack/msgpack/blob/master/spec.md
 */
import { ProtocolError } from "./errors.ts";
import { FRAME_FIXED_BYTES } from "./frame.ts";
import { RECORD_CHUNKS_MAX } from "./limits.ts";

/** The deepest message is a commit: message, delta, puts, put, chunks; a list answer: message, entries, entry, inode, record. */
const DEPTH_MAX = 6;
/** The longest array of any message: the chunk ids of one record. */
const ARRAY_MAX_ITEMS = RECORD_CHUNKS_MAX;
/** Values in one message. The most is a commit whose 8 MiB are chunk ids of 34 bytes each: some 250,000. */
const MESSAGE_MAX_ITEMS = 2 ** 19;

/** Messages are packed one behind the other into slabs of this size, so that most of them cost no allocation but their view. */
const SLAB_BYTES = 64 * 1024;
/** A slab with less room than this is left: a message that has to move to a larger one is copied. */
const SLAB_ROOM_BYTES = 4 * 1024;
/** The most that a number or the head of anything takes. */
const HEAD_MAX_BYTES = 9;
/** A loop beats a call into native code up to about here. */
const SHORT_BYTES = 24;
const UTF8_BYTES_PER_UNIT = 3;

const encoder = new TextEncoder();
const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
const float64 = new DataView(new ArrayBuffer(8));

let slab = new Uint8Array(SLAB_BYTES);
let start = 0;
let at = 0;

/** FRAME_FIXED_BYTES of room for the frame, then the packed message: see finishFrame. The memory is not used again. */
export function packMessage(message: unknown[]): Uint8Array {
  if (slab.length - at < SLAB_ROOM_BYTES) {
    slab = new Uint8Array(SLAB_BYTES);
    at = 0;
  }
  start = at;
  at += FRAME_FIXED_BYTES;
  try {
    packValue(message);
    return slab.subarray(start, at);
  } catch (error) {
    at = start;
    throw error;
  } finally {
    // A slab that grew for one message goes with it.
    if (slab.length > SLAB_BYTES) at = slab.length;
  }
}

function makeRoom(bytes: number): void {
  if (slab.length - at >= bytes) return;
  const packed = at - start;
  const larger = new Uint8Array(Math.max(2 * (packed + bytes), SLAB_BYTES));
  larger.set(slab.subarray(start, at));
  slab = larger;
  start = 0;
  at = packed;
}

function packValue(value: unknown): void {
  if (slab.length - at < HEAD_MAX_BYTES) makeRoom(HEAD_MAX_BYTES);
  if (typeof value === "number") {
    packNumber(value);
  } else if (value instanceof Uint8Array) {
    packBytes(value);
  } else if (Array.isArray(value)) {
    packArray(value);
  } else if (typeof value === "string") {
    packString(value);
  } else if (value === null) {
    slab[at++] = 0xc0;
  } else if (value === true) {
    slab[at++] = 0xc3;
  } else if (value === false) {
    slab[at++] = 0xc2;
  } else {
    throw new TypeError(`message: a value of type ${typeof value}`);
  }
}

/** The lowest `width` bytes of `value`, big-endian. */
function writeUint(value: number, width: 1 | 2 | 4): void {
  if (width === 4) {
    slab[at++] = value >>> 24;
    slab[at++] = value >>> 16;
  }
  if (width >= 2) slab[at++] = value >>> 8;
  slab[at++] = value;
}

/** Bytes, strings and unsigned integers have tokens for 8, 16 and 32 bits, one behind the other. */
const BIN = 0xc4;
const STR = 0xd9;
const UINT = 0xcc;

/** The shortest of three tokens from `first` on, and the number or length that follows it. */
function writeSized(first: number, value: number): void {
  if (value <= 0xff) {
    slab[at++] = first;
    writeUint(value, 1);
  } else if (value <= 0xff_ff) {
    slab[at++] = first + 1;
    writeUint(value, 2);
  } else {
    slab[at++] = first + 2;
    writeUint(value, 4);
  }
}

function packNumber(value: number): void {
  if (value >= 0 && value <= 0xff_ff_ff_ff && Number.isInteger(value)) {
    if (value < 0x80) slab[at++] = value;
    else writeSized(UINT, value);
  } else if (value < 0 && value >= -0x80_00_00_00 && Number.isInteger(value)) {
    if (value >= -0x20) {
      slab[at++] = value;
    } else if (value >= -0x80) {
      slab[at++] = 0xd0;
      writeUint(value, 1);
    } else if (value >= -0x80_00) {
      slab[at++] = 0xd1;
      writeUint(value, 2);
    } else {
      slab[at++] = 0xd2;
      writeUint(value, 4);
    }
  } else {
    slab[at++] = 0xcb;
    float64.setFloat64(0, value);
    for (let i = 0; i < 8; i++) slab[at++] = float64.getUint8(i);
  }
}

function packBytes(value: Uint8Array): void {
  const { length } = value;
  if (slab.length - at < length + HEAD_MAX_BYTES) makeRoom(length + HEAD_MAX_BYTES);
  writeSized(BIN, length);
  if (length <= SHORT_BYTES) {
    for (let i = 0; i < length; i++) slab[at + i] = value[i] as number;
  } else {
    slab.set(value, at);
  }
  at += length;
}

function packString(value: string): void {
  const { length } = value;
  makeRoom(UTF8_BYTES_PER_UNIT * length + HEAD_MAX_BYTES);
  if (length < 0x20) {
    const head = at;
    for (let i = 0; i < length; i++) {
      const unit = value.charCodeAt(i);
      if (unit >= 0x80) break;
      slab[head + 1 + i] = unit;
      if (i + 1 === length) at = head + 1 + length;
    }
    if (length === 0) at++;
    if (at > head) {
      slab[head] = 0xa0 | length;
      return;
    }
  }
  const text = encoder.encode(value);
  if (text.length < 0x20) slab[at++] = 0xa0 | text.length;
  else writeSized(STR, text.length);
  slab.set(text, at);
  at += text.length;
}

function packArray(values: readonly unknown[]): void {
  const { length } = values;
  if (length < 0x10) {
    slab[at++] = 0x90 | length;
  } else if (length <= 0xff_ff) {
    slab[at++] = 0xdc;
    writeUint(length, 2);
  } else {
    slab[at++] = 0xdd;
    writeUint(length, 4);
  }
  for (let i = 0; i < length; i++) packValue(values[i]);
}

let input: Uint8Array = slab;
let next = 0;
let itemsLeft = 0;

/**
 * The message in `bytes`. Byte strings in it share the memory of `bytes`.
 * @throws ProtocolError when it is not exactly one array of allowed values
 */
export function unpackMessage(bytes: Uint8Array): unknown[] {
  input = bytes;
  next = 0;
  itemsLeft = MESSAGE_MAX_ITEMS;
  const message = readValue(0);
  if (next !== bytes.length) throw new ProtocolError(`message: ${bytes.length - next} bytes trail`);
  if (!Array.isArray(message)) throw new ProtocolError("message: not an array");
  return message;
}

function readValue(depth: number): unknown {
  if (--itemsLeft < 0) throw new ProtocolError(`message: more than ${MESSAGE_MAX_ITEMS} values`);
  if (next >= input.length) throw truncated();
  const token = input[next++] as number;
  if (token < 0x80) return token;
  if (token >= 0xe0) return token - 0x100;
  if (token < 0xa0 && token >= 0x90) return readArray(token & 0x0f, depth);
  if (token >= 0xa0 && token < 0xc0) return readString(token & 0x1f);
  switch (token) {
    case 0xc0:
      return null;
    case 0xc2:
      return false;
    case 0xc3:
      return true;
    case 0xc4: // bin 8
      return readBytes(readUint(1));
    case 0xc5: // bin 16
      return readBytes(readUint(2));
    case 0xc6: // bin 32
      return readBytes(readUint(4));
    case 0xcc: // uint 8
      return readUint(1);
    case 0xcd: // uint 16
      return readUint(2);
    case 0xce: // uint 32
      return readUint(4);
    case 0xd0: // int 8
      return (readUint(1) << 24) >> 24;
    case 0xd1: // int 16
      return (readUint(2) << 16) >> 16;
    case 0xd2: // int 32
      return readUint(4) | 0;
    case 0xcb: // float 64: integers beyond 32 bits
      return readFloat64();
    case 0xd9: // str 8
      return readString(readUint(1));
    case 0xda: // str 16
      return readString(readUint(2));
    case 0xdb: // str 32
      return readString(readUint(4));
    case 0xdc: // array 16
      return readArray(readUint(2), depth);
    case 0xdd: // array 32
      return readArray(readUint(4), depth);
    default:
      throw new ProtocolError(`message: MessagePack type 0x${token.toString(16)} is not used here`);
  }
}

/** Steps over `length` bytes, returns where they begin. */
function take(length: number): number {
  if (length > input.length - next) throw truncated();
  const from = next;
  next += length;
  return from;
}

function readUint(width: 1 | 2 | 4): number {
  const from = take(width);
  let value = input[from] as number;
  if (width >= 2) value = value * 256 + (input[from + 1] as number);
  if (width === 4) value = value * 65_536 + (input[from + 2] as number) * 256 + (input[from + 3] as number);
  return value;
}

function readFloat64(): number {
  const from = take(8);
  for (let i = 0; i < 8; i++) float64.setUint8(i, input[from + i] as number);
  return float64.getFloat64(0);
}

function readBytes(length: number): Uint8Array {
  const from = take(length);
  return input.subarray(from, from + length);
}

function readString(length: number): string {
  const from = take(length);
  let text = "";
  for (let i = from; i < next; i++) {
    const byte = input[i] as number;
    if (byte >= 0x80 || length > SHORT_BYTES) return readUtf8(from);
    text += String.fromCharCode(byte);
  }
  return text;
}

function readUtf8(from: number): string {
  try {
    return decoder.decode(input.subarray(from, next));
  } catch (error) {
    throw new ProtocolError("message: text that is not UTF-8", { cause: error });
  }
}

function readArray(count: number, depth: number): unknown[] {
  if (depth >= DEPTH_MAX) throw new ProtocolError(`message: arrays nested deeper than ${DEPTH_MAX}`);
  if (count > ARRAY_MAX_ITEMS) throw new ProtocolError(`message: array of ${count} items, at most ${ARRAY_MAX_ITEMS} allowed`);
  if (count > input.length - next) throw truncated();
  const values: unknown[] = [];
  for (let i = 0; i < count; i++) values.push(readValue(depth + 1));
  return values;
}

function truncated(): ProtocolError {
  return new ProtocolError("message: ends too early");
}
