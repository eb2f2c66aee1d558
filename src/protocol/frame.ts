/**
 * Frames, all integers big-endian:
 *
 *     0   u32  length of all that follows
 *     4   u8   PROTOCOL_VERSION
 *     5   u8   operation (messages.ts Op)
 *     6   u8   flags: 1 answer, 2 error (only with answer)
 *     7   u8   0
 *     8   u32  request id, chosen by whoever asks; an answer carries its request's
 *     12  u32  length of the msgpack header
 *     16       msgpack header (codec.ts), then the raw body to the end: a sealed chunk, or nothing
 *
 * Everything that a peer can get wrong here is a ProtocolError, found before memory is set aside for it.
 */
import { readU32, writeU32 } from "./big-endian.ts";
import { ProtocolError } from "./errors.ts";
import { FRAME_BODY_MAX_BYTES, FRAME_HEADER_MAX_BYTES } from "./limits.ts";
import { Op, type OpName, PROTOCOL_VERSION } from "./messages.ts";

export const FRAME_FIXED_BYTES = 16;
export const FLAG_ANSWER = 1;
export const FLAG_ERROR = 2;
export const REQUEST_ID_MAX = 2 ** 32 - 1;

/** An error answer holds a code and one line of text. */
const ERROR_HEADER_MAX_BYTES = 8 * 1024;

const OP_NAMES: (OpName | undefined)[] = [];
for (const name of Object.keys(Op) as OpName[]) OP_NAMES[Op[name]] = name;

/** One frame as received. The memory of `header` belongs to it alone; see FrameDecoderOptions for that of `body`. */
export interface Frame {
  readonly op: OpName;
  readonly answer: boolean;
  readonly error: boolean;
  readonly requestId: number;
  readonly header: Uint8Array;
  readonly body: Uint8Array;
}

/** Takes a body in pieces as they arrive. Neither method throws. */
export interface BodySink {
  /** Bytes at most. */
  readonly length: number;
  /** A body begins; also when one began before and was cut off with its connection. */
  begin(): void;
  /** The next piece; its memory is not to be kept. */
  write(bytes: Uint8Array): void;
}

export interface FrameDecoderOptions {
  /** Who reads: a node takes requests and answers to recall, a client takes answers and recall requests. */
  readonly side: "node" | "client";
  readonly onFrame: (frame: Frame) => void;
  /** A frame has begun, and will have so many bytes in header and body. */
  readonly onBegin?: (bytes: number) => void;
  /**
   * Where a body goes: memory of at least `length` bytes, which the body then fills from its start; a sink, and the frame then has an
   * empty body; null for new memory; "discard" when nobody waits for it: the frame is then passed over without onFrame.
   */
  readonly bodyTarget?: (requestId: number, length: number) => BodyTarget;
}

export type BodyTarget = Uint8Array | BodySink | null | "discard";

const NO_BYTES = new Uint8Array(0);

/** Takes bytes in pieces of any size and gives frames. After a ProtocolError it must not be used again. */
export class FrameDecoder {
  readonly #onFrame: (frame: Frame) => void;
  readonly #bodyTarget: ((requestId: number, length: number) => BodyTarget) | undefined;
  readonly #onBegin: ((bytes: number) => void) | undefined;
  readonly #isNode: boolean;

  /** Of the frames that begin from now on. */
  headerMaxBytes = FRAME_HEADER_MAX_BYTES;
  bodyMaxBytes = FRAME_BODY_MAX_BYTES;
  /** Fixed part of the frame being read, while it comes in pieces. */
  readonly #fixed = new Uint8Array(FRAME_FIXED_BYTES);
  #fixedFilled = 0;

  #op: OpName = "ping";
  #answer = false;
  #error = false;
  #requestId = 0;
  /** null while the fixed part is being read. */
  #header: Uint8Array | null = null;
  #headerFilled = 0;
  #bodyBytes = 0;
  #bodyFilled = 0;
  /** null until the header is whole. */
  #body: Uint8Array | null = null;
  #sink: BodySink | null = null;
  #discard = false;

  constructor(options: FrameDecoderOptions) {
    this.#onFrame = options.onFrame;
    this.#onBegin = options.onBegin;
    this.#bodyTarget = options.bodyTarget;
    this.#isNode = options.side === "node";
  }

  /**
   * Takes the next bytes; calls onFrame for each frame that they complete. Keeps no reference to `bytes`.
   * @throws ProtocolError
   */
  push(bytes: Uint8Array): void {
    const end = bytes.length;
    let at = 0;
    while (true) {
      if (this.#header === null) {
        if (at === end) return;
        const want = FRAME_FIXED_BYTES - this.#fixedFilled;
        if (this.#fixedFilled === 0 && end - at >= FRAME_FIXED_BYTES) {
          this.#readFixed(bytes, at);
          at += FRAME_FIXED_BYTES;
        } else {
          const take = Math.min(want, end - at);
          this.#fixed.set(bytes.subarray(at, at + take), this.#fixedFilled);
          this.#fixedFilled += take;
          at += take;
          if (take < want) return;
          this.#readFixed(this.#fixed, 0);
        }
      }
      const header = this.#header as unknown as Uint8Array;
      if (this.#headerFilled < header.length) {
        const take = Math.min(header.length - this.#headerFilled, end - at);
        header.set(bytes.subarray(at, at + take), this.#headerFilled);
        this.#headerFilled += take;
        at += take;
        if (this.#headerFilled < header.length) return;
      }
      if (this.#bodyFilled < this.#bodyBytes) {
        if (this.#body === null && this.#sink === null && !this.#discard) this.#startBody();
        const take = Math.min(this.#bodyBytes - this.#bodyFilled, end - at);
        if (this.#body !== null) this.#body.set(bytes.subarray(at, at + take), this.#bodyFilled);
        else this.#sink?.write(bytes.subarray(at, at + take));
        this.#bodyFilled += take;
        at += take;
        if (this.#bodyFilled < this.#bodyBytes) return;
      }
      this.#finish(header);
    }
  }

  /** The memory given for the body of this answer is not to be written any more; what is still to come is passed over. */
  abandonBody(requestId: number): void {
    if ((this.#body !== null || this.#sink !== null) && this.#answer && this.#requestId === requestId) {
      this.#body = null;
      this.#sink = null;
      this.#discard = true;
    }
  }

  /** Checks the fixed part at `at`, and sets memory aside for the header. */
  #readFixed(bytes: Uint8Array, at: number): void {
    const length = readU32(bytes, at);
    const version = bytes[at + 4] as number;
    const code = bytes[at + 5] as number;
    const flags = bytes[at + 6] as number;
    const zero = bytes[at + 7] as number;
    const headerBytes = readU32(bytes, at + 12);
    if (version !== PROTOCOL_VERSION) throw new ProtocolError(`frame: version ${version}, expected ${PROTOCOL_VERSION}`);
    const op = OP_NAMES[code];
    if (op === undefined) throw new ProtocolError(`frame: unknown operation ${code}`);
    const answer = (flags & FLAG_ANSWER) !== 0;
    const error = (flags & FLAG_ERROR) !== 0;
    if ((flags & ~(FLAG_ANSWER | FLAG_ERROR)) !== 0 || zero !== 0) throw new ProtocolError(`frame: unknown flags ${flags}, ${zero}`);
    if (error && !answer) throw new ProtocolError("frame: an error that answers nothing");
    // A node asks only recall, and a client asks everything else.
    if (answer !== ((op === "recall") === this.#isNode)) {
      throw new ProtocolError(`frame: ${answer ? "answer to" : "request"} ${op} in the wrong direction`);
    }
    const restBytes = FRAME_FIXED_BYTES - 4 + headerBytes;
    const bodyBytes = length - restBytes;
    const headerMax = error ? ERROR_HEADER_MAX_BYTES : this.headerMaxBytes;
    if (headerBytes < 1 || headerBytes > headerMax)
      throw new ProtocolError(`frame: header of ${headerBytes} bytes, 1 to ${headerMax} allowed`);
    if (bodyBytes < 0) throw new ProtocolError(`frame: length ${length} is less than its parts, ${restBytes}`);
    const bodyMax = Math.min(bodyMaxBytes(op, answer, error), this.bodyMaxBytes);
    if (bodyBytes > bodyMax) throw new ProtocolError(`frame: ${op} with a body of ${bodyBytes} bytes, at most ${bodyMax} allowed`);

    this.#onBegin?.(headerBytes + bodyBytes);
    this.#op = op;
    this.#answer = answer;
    this.#error = error;
    this.#requestId = readU32(bytes, at + 8);
    this.#header = new Uint8Array(headerBytes);
    this.#headerFilled = 0;
    this.#bodyBytes = bodyBytes;
    this.#bodyFilled = 0;
    this.#body = null;
    this.#sink = null;
    this.#discard = false;
  }

  #startBody(): void {
    const length = this.#bodyBytes;
    const target = this.#bodyTarget === undefined ? null : this.#bodyTarget(this.#requestId, length);
    if (target === "discard") this.#discard = true;
    // allocUnsafeSlow: every byte is written before anyone sees it, and zeroing 4 MiB first costs as much as receiving it.
    else if (target === null) this.#body = Buffer.allocUnsafeSlow(length);
    else if (target.length < length) throw new ProtocolError(`frame: body of ${length} bytes, there is room for ${target.length}`);
    else if (!(target instanceof Uint8Array)) {
      this.#sink = target;
      target.begin();
    } else this.#body = target.length === length ? target : target.subarray(0, length);
  }

  #finish(header: Uint8Array): void {
    const body = this.#body ?? NO_BYTES;
    this.#header = null;
    this.#body = null;
    this.#sink = null;
    this.#fixedFilled = 0;
    if (this.#discard) return;
    this.#onFrame({ op: this.#op, answer: this.#answer, error: this.#error, requestId: this.#requestId, header, body });
  }
}

function bodyMaxBytes(op: OpName, answer: boolean, error: boolean): number {
  return !error && ((op === "chunkPut" && !answer) || (op === "chunkGet" && answer)) ? FRAME_BODY_MAX_BYTES : 0;
}

/**
 * Fills in the fixed part of a frame. `head` is FRAME_FIXED_BYTES of room and then the msgpack header (codec.ts makes it so);
 * the result is what to send: `head`, then the parts of the body, uncopied.
 * @throws RangeError when a part is longer than the protocol allows
 */
export function finishFrame(
  head: Uint8Array,
  op: OpName,
  flags: number,
  requestId: number,
  body: readonly Uint8Array[] | undefined,
): Uint8Array[] {
  let bodyBytes = 0;
  if (body !== undefined) for (const part of body) bodyBytes += part.length;
  const headerBytes = head.length - FRAME_FIXED_BYTES;
  const headerMax = (flags & FLAG_ERROR) !== 0 ? ERROR_HEADER_MAX_BYTES : FRAME_HEADER_MAX_BYTES;
  if (headerBytes > headerMax) throw new RangeError(`${op}: header of ${headerBytes} bytes, at most ${headerMax} allowed`);
  const bodyMax = bodyMaxBytes(op, (flags & FLAG_ANSWER) !== 0, (flags & FLAG_ERROR) !== 0);
  if (bodyBytes > bodyMax) throw new RangeError(`${op}: body of ${bodyBytes} bytes, at most ${bodyMax} allowed`);
  writeU32(head, 0, FRAME_FIXED_BYTES - 4 + headerBytes + bodyBytes);
  head[4] = PROTOCOL_VERSION;
  head[5] = Op[op];
  head[6] = flags;
  head[7] = 0;
  writeU32(head, 8, requestId);
  writeU32(head, 12, headerBytes);
  return body === undefined || bodyBytes === 0 ? [head] : [head, ...body];
}
