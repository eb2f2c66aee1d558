import { expect, test } from "bun:test";
import fc from "fast-check";
import { decodeRequest, encodeAnswerFrame, encodeErrorFrame, encodeRequestFrame } from "./codec.ts";
import { ProtocolError } from "./errors.ts";
import { type BodyTarget, type Frame, FrameDecoder } from "./frame.ts";
import { FRAME_BODY_MAX_BYTES, FRAME_HEADER_MAX_BYTES } from "./limits.ts";
import { PROTOCOL_VERSION } from "./messages.ts";

function decoderOf(side: "node" | "client", bodyTarget?: (id: number, length: number) => BodyTarget) {
  const frames: Frame[] = [];
  const decoder = new FrameDecoder({ side, onFrame: (frame) => frames.push(frame), ...(bodyTarget ? { bodyTarget } : {}) });
  return { decoder, frames };
}

const body = (length: number) => Uint8Array.from({ length }, (_, i) => i * 7);

test("frames arrive whole, however the bytes are split", () => {
  const requests = [
    encodeRequestFrame("ping", 1, {}),
    encodeRequestFrame("chunkPut", 2, { id: new Uint8Array(32) }, [body(1_000), body(0), body(500)]),
    encodeRequestFrame("sync", 2 ** 32 - 1, { ns: "default" }),
    encodeAnswerFrame("recall", 4, {}),
  ];
  const stream = Buffer.concat(requests.flat());
  fc.assert(
    fc.property(fc.array(fc.integer({ min: 0, max: 300 })), (cuts) => {
      const { decoder, frames } = decoderOf("node");
      let at = 0;
      for (const cut of cuts) {
        // A copy that is overwritten afterwards: the decoder must keep nothing of it.
        const piece = new Uint8Array(stream.subarray(at, at + cut));
        decoder.push(piece);
        piece.fill(0xee);
        at += cut;
      }
      decoder.push(stream.subarray(at));
      expect(frames.map((frame) => [frame.op, frame.requestId, frame.answer, frame.error, frame.body.length])).toEqual([
        ["ping", 1, false, false, 0],
        ["chunkPut", 2, false, false, 1_500],
        ["sync", 2 ** 32 - 1, false, false, 0],
        ["recall", 4, true, false, 0],
      ]);
      expect(Buffer.from((frames[1] as Frame).body)).toEqual(Buffer.concat([body(1_000), body(500)]));
      expect(decodeRequest("sync", (frames[2] as Frame).header)).toEqual({ ns: "default" });
    }),
  );
});

test("an answer's body lands in the memory that its asker gave", () => {
  const memory = new Uint8Array(2_000);
  const { decoder, frames } = decoderOf("client", (id) => (id === 5 ? memory : id === 6 ? null : "discard"));
  const answers = [5, 6, 7].map((id) => encodeAnswerFrame("chunkGet", id, { totalBytes: 9 }, [body(1_500)]));
  decoder.push(Buffer.concat(answers.flat()));
  expect(frames.map((frame) => frame.requestId)).toEqual([5, 6]);
  expect(frames[0]?.body.buffer).toBe(memory.buffer);
  expect(frames[0]?.body).toEqual(body(1_500));
  expect(memory.subarray(1_500)).toEqual(new Uint8Array(500));
  expect(Buffer.from((frames[1] as Frame).body).equals(body(1_500))).toBe(true);
});

test("memory that was taken back while a body arrives is not written any more", () => {
  const memory = new Uint8Array(1_500);
  const { decoder, frames } = decoderOf("client", () => memory);
  const stream = Buffer.concat(encodeAnswerFrame("chunkGet", 5, { totalBytes: 9 }, [body(1_500)]));
  decoder.push(stream.subarray(0, 500));
  decoder.abandonBody(5);
  memory.fill(0xaa);
  decoder.push(stream.subarray(500));
  decoder.push(Buffer.concat(encodeAnswerFrame("ping", 6, {})));
  expect(memory).toEqual(new Uint8Array(1_500).fill(0xaa));
  expect(frames.map((frame) => frame.requestId)).toEqual([6]);
});

test("a sink gets a body in pieces, and nothing more when it was taken back", () => {
  const got: string[] = [];
  const sink = { length: 1_500, begin: () => got.push("begin"), write: (bytes: Uint8Array) => got.push(String(bytes.length)) };
  const { decoder, frames } = decoderOf("client", () => sink);
  const stream = Buffer.concat(encodeAnswerFrame("chunkGet", 5, { totalBytes: 9 }, [body(1_500)]));
  decoder.push(stream.subarray(0, stream.length - 1_000));
  decoder.push(stream.subarray(stream.length - 1_000));
  expect(frames.map((frame) => [frame.requestId, frame.body.length])).toEqual([[5, 0]]);
  decoder.push(stream.subarray(0, stream.length - 400));
  decoder.abandonBody(5);
  decoder.push(stream.subarray(stream.length - 400));
  expect(got).toEqual(["begin", "500", "1000", "begin", "1100"]);
  expect(frames.length).toBe(1);
});

/** A fixed part with the given fields, right where not given. */
function fixed(fields: { length?: number; version?: number; op?: number; flags?: number; zero?: number; header?: number }): Uint8Array {
  const buffer = Buffer.alloc(16);
  const header = fields.header ?? 1;
  buffer.writeUInt32BE(fields.length ?? 12 + header, 0);
  buffer[4] = fields.version ?? PROTOCOL_VERSION;
  buffer[5] = fields.op ?? 2;
  buffer[6] = fields.flags ?? 0;
  buffer[7] = fields.zero ?? 0;
  buffer.writeUInt32BE(1, 8);
  buffer.writeUInt32BE(header, 12);
  return buffer;
}

test("a fixed part that breaks the protocol is refused before its frame comes", () => {
  const bad = {
    "another version": { version: PROTOCOL_VERSION + 1 },
    "an operation that does not exist": { op: 200 },
    "unknown flags": { flags: 4 },
    "the zero byte": { zero: 1 },
    "an answer to the node": { flags: 1 },
    "a recall from a client": { op: 41 },
    "an error that answers nothing": { flags: 2 },
    "no header": { header: 0 },
    "a header beyond the limit": { header: FRAME_HEADER_MAX_BYTES + 1 },
    "a header of 4 GiB": { header: 2 ** 32 - 1, length: 2 ** 32 - 1 },
    "a length below its parts": { length: 12 },
    "a body where none belongs": { length: 14 },
    "a chunk beyond the limit": { op: 50, length: 13 + FRAME_BODY_MAX_BYTES + 1 },
  };
  for (const [name, fields] of Object.entries(bad)) {
    expect(() => decoderOf("node").decoder.push(fixed(fields)), name).toThrow(ProtocolError);
  }
  expect(() => decoderOf("node").decoder.push(fixed({}))).not.toThrow();
  expect(() => decoderOf("client").decoder.push(fixed({ flags: 1 }))).not.toThrow();
  expect(() => decoderOf("client").decoder.push(fixed({ flags: 3, header: 100_000 }))).toThrow(ProtocolError);
  expect(() => decoderOf("client").decoder.push(fixed({ op: 51, flags: 3, length: 15 }))).toThrow(ProtocolError);
});

test("random and damaged streams give frames or a ProtocolError, and nothing else", () => {
  const stream = Buffer.concat([
    ...encodeRequestFrame("lookup", 1, { ns: "a", key: body(25), want: { lease: true, region0MaxBytes: 0 }, leaseParent: true }),
    ...encodeRequestFrame("chunkPut", 2, { id: body(32) }, [body(100)]),
    ...encodeRequestFrame("ping", 3, {}),
  ]);
  const feed = (bytes: Uint8Array, side: "node" | "client"): void => {
    const { decoder, frames } = decoderOf(side);
    try {
      decoder.push(bytes);
      for (const frame of frames) if (!frame.answer) decodeRequest(frame.op, frame.header);
    } catch (error) {
      expect(error).toBeInstanceOf(ProtocolError);
    }
  };
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 400 }), fc.constantFrom("node" as const, "client" as const), (bytes, side) => feed(bytes, side)),
    { numRuns: 2_000 },
  );
  fc.assert(
    fc.property(fc.nat(stream.length * 8 - 1), fc.nat(stream.length), (bit, cut) => {
      const damaged = new Uint8Array(stream);
      damaged[bit >> 3] = (damaged[bit >> 3] as number) ^ (1 << (bit & 7));
      feed(damaged, "node");
      feed(damaged.subarray(0, cut), "node");
    }),
    { numRuns: 2_000 },
  );
});

test("an error answer goes to a client like any answer", () => {
  const { decoder, frames } = decoderOf("client");
  decoder.push(Buffer.concat(encodeErrorFrame("chunkGet", 9, "not_found", "no such chunk")));
  expect(frames[0]).toMatchObject({ op: "chunkGet", requestId: 9, answer: true, error: true });
});
