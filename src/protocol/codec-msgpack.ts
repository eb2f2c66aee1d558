/**
 * The part of MessagePack that messages are made of: nil, booleans, integers, doubles, strings, byte strings and arrays. No maps, no
 * extension types. msgpackr knows many more (records with generated readers, dates, regular expressions, errors): `unpackMessage`
 * refuses them before msgpackr sees them, and bounds what msgpackr is going to allocate.
 *
 * Format: https://github.com/msgpack/msgpack/blob/master/spec.md
 */
import { Packr, RESERVE_START_SPACE, Unpackr } from "msgpackr/pack";
import { ProtocolError } from "./errors.ts";
import { FRAME_FIXED_BYTES } from "./frame.ts";
import { RECORD_CHUNKS_MAX } from "./limits.ts";

/** The deepest message is a commit: message, delta, puts, put, chunks; a list answer: message, entries, entry, inode, record. */
const DEPTH_MAX = 6;
/** The longest array of any message: the chunk ids of one record. */
const ARRAY_MAX_ITEMS = RECORD_CHUNKS_MAX;
/** Values in one message. The most is a commit whose 8 MiB are chunk ids of 34 bytes each: some 250,000. */
const MESSAGE_MAX_ITEMS = 2 ** 19;

const packr = new Packr({ useRecords: false, mapsAsObjects: true, moreTypes: false });
const unpackr = new Unpackr({ useRecords: false, mapsAsObjects: true, moreTypes: false });

/** FRAME_FIXED_BYTES of room for the frame, then the packed message: see finishFrame. The memory is not used again. */
export function packMessage(message: unknown[]): Uint8Array {
  return packr.pack(message, RESERVE_START_SPACE + FRAME_FIXED_BYTES);
}

/**
 * The message in `bytes`. Byte strings in it share the memory of `bytes`.
 * @throws ProtocolError when it is not exactly one array of allowed values
 */
export function unpackMessage(bytes: Uint8Array): unknown[] {
  itemsLeft = MESSAGE_MAX_ITEMS;
  const end = scanValue(bytes, 0, 0);
  if (end !== bytes.length) throw new ProtocolError(`message: ${bytes.length - end} bytes trail`);
  let message: unknown;
  try {
    message = unpackr.unpack(bytes);
  } catch (error) {
    throw new ProtocolError("message: unreadable", { cause: error });
  }
  if (!Array.isArray(message)) throw new ProtocolError("message: not an array");
  return message;
}

let itemsLeft = 0;

/** Checks the value at `at`, returns where it ends. */
function scanValue(bytes: Uint8Array, at: number, depth: number): number {
  if (--itemsLeft < 0) throw new ProtocolError(`message: more than ${MESSAGE_MAX_ITEMS} values`);
  const token = bytes[at];
  if (token === undefined) throw truncated();
  const next = at + 1;
  if (token < 0x80 || token >= 0xe0) return next; // fixint
  if (token >= 0xa0 && token < 0xc0) return skip(bytes, next, token & 0x1f); // fixstr
  if (token >= 0x90 && token < 0xa0) return scanArray(bytes, next, token & 0x0f, depth); // fixarray
  switch (token) {
    case 0xc0: // nil
    case 0xc2: // false
    case 0xc3: // true
      return next;
    case 0xc4: // bin 8
    case 0xd9: // str 8
      return skip(bytes, next + 1, readLength(bytes, next, 1));
    case 0xc5: // bin 16
    case 0xda: // str 16
      return skip(bytes, next + 2, readLength(bytes, next, 2));
    case 0xc6: // bin 32
    case 0xdb: // str 32
      return skip(bytes, next + 4, readLength(bytes, next, 4));
    case 0xcc: // uint 8
    case 0xd0: // int 8
      return skip(bytes, next, 1);
    case 0xcd: // uint 16
    case 0xd1: // int 16
      return skip(bytes, next, 2);
    case 0xce: // uint 32
    case 0xd2: // int 32
      return skip(bytes, next, 4);
    case 0xcb: // float 64: integers beyond 32 bits
      return skip(bytes, next, 8);
    case 0xdc: // array 16
      return scanArray(bytes, next + 2, readLength(bytes, next, 2), depth);
    case 0xdd: // array 32
      return scanArray(bytes, next + 4, readLength(bytes, next, 4), depth);
    default:
      throw new ProtocolError(`message: MessagePack type 0x${token.toString(16)} is not used here`);
  }
}

function scanArray(bytes: Uint8Array, at: number, count: number, depth: number): number {
  if (depth >= DEPTH_MAX) throw new ProtocolError(`message: arrays nested deeper than ${DEPTH_MAX}`);
  if (count > ARRAY_MAX_ITEMS) throw new ProtocolError(`message: array of ${count} items, at most ${ARRAY_MAX_ITEMS} allowed`);
  if (count > bytes.length - at) throw truncated();
  let next = at;
  for (let i = 0; i < count; i++) next = scanValue(bytes, next, depth + 1);
  return next;
}

function skip(bytes: Uint8Array, at: number, length: number): number {
  if (length > bytes.length - at) throw truncated();
  return at + length;
}

function readLength(bytes: Uint8Array, at: number, width: 1 | 2 | 4): number {
  let value = 0;
  for (let i = 0; i < width; i++) {
    const byte = bytes[at + i];
    if (byte === undefined) throw truncated();
    value = value * 256 + byte;
  }
  return value;
}

function truncated(): ProtocolError {
  return new ProtocolError("message: ends too early");
}
