import { expect, test } from "bun:test";
import fc from "fast-check";
import { Packr } from "msgpackr/pack";
import { decodeAnswer, decodeError, decodeRequest, encodeAnswerFrame, encodeErrorFrame, encodeRequestFrame } from "./codec.ts";
import { NodeError, ProtocolError } from "./errors.ts";
import { FRAME_FIXED_BYTES } from "./frame.ts";
import {
  COMMIT_ITEMS_MAX,
  INO_GRANT_MAX,
  INO_MAX,
  MIB,
  RDMA_MEMORY_MAX_BYTES,
  RECORD_KEY_MAX_BYTES,
  RECORD_MAX_BYTES,
  SEALED_CHUNK_MAX_BYTES,
} from "./limits.ts";
import { type AnswerOf, type Delta, NODE_ERRORS, Op, type OpName, PROTOCOL_VERSION, type RequestOf } from "./messages.ts";
import { anyPolicy } from "./test-policy.ts";

const bytes = (minLength: number, maxLength: number) => fc.uint8Array({ minLength, maxLength });
const count = fc.maxSafeNat();
const limit = fc.oneof(count, fc.constant(null));
const change = fc.oneof(limit, fc.constant(undefined));
const signed = fc.maxSafeInteger();
const ns = fc.constantFrom("default", "a", "a-b.c_d", `a${"b".repeat(62)}c`);
const ino = fc.integer({ min: 1, max: INO_MAX });
const link = fc.integer({ min: 0, max: INO_MAX });
const nsec = fc.integer({ min: 0, max: 999_999_999 });
const key = bytes(1, RECORD_KEY_MAX_BYTES);
const id = bytes(32, 32);
const hash = bytes(16, 16);
const sealed = fc.integer({ min: 0, max: SEALED_CHUNK_MAX_BYTES });
const rdmaBody = fc.record({
  at: fc.nat(RDMA_MEMORY_MAX_BYTES),
  bytes: fc.integer({ min: 1, max: SEALED_CHUNK_MAX_BYTES }),
  counter: count,
  mac: bytes(16, 16),
});
const record = fc.record({ version: count, link, value: bytes(0, 300) });
const maybeRecord = fc.option(record);
const counters = fc.record({ links: signed, entries: signed, mtimeSec: signed, mtimeNsec: nsec, bumps: count });
const inode = fc.record({ ino, attr: maybeRecord, counters: fc.option(counters), region0: maybeRecord, leased: fc.boolean() });
const want = fc.record({ lease: fc.boolean(), region0MaxBytes: fc.integer({ min: 0, max: RECORD_MAX_BYTES }) });
const few = <T>(item: fc.Arbitrary<T>) => fc.array(item, { maxLength: 20 });
const nothing = fc.constant({});
const text = fc.string({ maxLength: 60 });
const keyEpoch = fc.record({ epoch: count, wrapped: bytes(1, 64) });
const check = fc.oneof(
  fc.record({ kind: fc.constant("version" as const), key, version: count }),
  fc.record({ kind: fc.constant("absent" as const), key }),
  fc.record({ kind: fc.constant("present" as const), key }),
  fc.record({ kind: fc.constant("empty" as const), prefix: key }),
  fc.record({ kind: fc.constant("bumps" as const), ino, bumps: count }),
);
const delta = fc.record({
  id: count,
  answeredBelow: count,
  checks: few(check),
  puts: few(fc.record({ key, link, chunks: few(id), value: bytes(0, 300) })),
  deletes: few(key),
  deletePrefixes: few(key),
  bumps: few(fc.record({ ino, links: signed, entries: signed, mtimeSec: signed, mtimeNsec: nsec })),
  leases: few(ino),
  durable: fc.boolean(),
});

const namespaceState = fc.record({ name: ns, id: bytes(8, 8), seq: count, durableSeq: count, recoveredSeq: count });

const arbitraries: { [O in OpName]: { request: fc.Arbitrary<RequestOf<O>>; answer: fc.Arbitrary<AnswerOf<O>> } } = {
  hello: {
    request: fc.record({
      protocol: fc.constant(PROTOCOL_VERSION),
      sessionId: bytes(16, 16),
      clientVersion: fc.string({ maxLength: 40 }),
      role: fc.constantFrom("meta" as const, "data" as const),
      lastStart: fc.oneof(bytes(0, 0), bytes(16, 16)),
      namespaces: few(ns),
    }),
    answer: fc.record({
      nodeVersion: fc.string({ unit: "grapheme", maxLength: 40 }),
      cluster: fc.string({ maxLength: 40 }),
      tenant: fc.string({ maxLength: 40 }),
      leaseMs: count,
      resumed: fc.boolean(),
      store: fc.record({
        instance: bytes(16, 16),
        start: count,
        startId: bytes(16, 16),
        knowsLastStart: fc.boolean(),
        namespaces: few(namespaceState),
      }),
    }),
  },
  ping: { request: nothing, answer: nothing },
  bye: { request: nothing, answer: nothing },
  keyList: { request: nothing, answer: fc.record({ keys: few(keyEpoch) }) },
  keyPut: { request: keyEpoch, answer: nothing },
  keyShred: { request: nothing, answer: fc.record({ keys: count }) },
  namespaceList: { request: nothing, answer: fc.record({ names: few(ns) }) },
  namespaceCreate: { request: fc.record({ name: ns }), answer: nothing },
  namespaceDelete: { request: fc.record({ name: ns, force: fc.boolean() }), answer: nothing },
  namespaceState: { request: fc.record({ ns }), answer: fc.record({ state: namespaceState }) },
  statfs: {
    request: fc.record({ ns }),
    answer: fc.record({ totalBytes: count, freeBytes: count, inodes: count, freeInodes: fc.oneof(count, fc.constant(null)) }),
  },
  gc: {
    request: fc.record({ part: fc.integer({ min: 0, max: 255 }), dryRun: fc.boolean() }),
    answer: fc.record({ chunks: count, bytes: count, freedChunks: count, freedBytes: count, keptChunks: count, keptBytes: count }),
  },
  policyGet: {
    request: fc.record({ namespaces: few(ns), workload: fc.constantFrom("", "Train-7", "a") }),
    answer: fc.record({ policy: anyPolicy }),
  },
  inoGrant: {
    request: fc.record({ ns, count: fc.integer({ min: 1, max: INO_GRANT_MAX }) }),
    answer: fc.record({ first: ino, count: fc.integer({ min: 1, max: INO_GRANT_MAX }) }),
  },
  get: { request: fc.record({ ns, keys: few(key) }), answer: fc.record({ records: few(maybeRecord) }) },
  inode: { request: fc.record({ ns, ino, want }), answer: fc.record({ inode }) },
  lookup: {
    request: fc.record({ ns, key, want, leaseParent: fc.boolean() }),
    answer: fc.record({ dentry: maybeRecord, inode: fc.option(inode), parentLeased: fc.boolean() }),
  },
  list: {
    request: fc.record({
      ns,
      dir: ino,
      after: fc.oneof(hash, bytes(0, 0)),
      limit: fc.integer({ min: 1, max: 4096 }),
      inodes: fc.boolean(),
      want,
      leaseDir: fc.boolean(),
    }),
    answer: fc.record({
      entries: few(fc.record({ hash, dentry: record, inode: fc.option(inode) })),
      more: fc.boolean(),
      counters,
      dirLeased: fc.boolean(),
    }),
  },
  range: {
    request: fc.record({ ns, from: bytes(0, 64), to: bytes(0, 64), limit: fc.integer({ min: 1, max: 4096 }) }),
    answer: fc.record({ records: few(fc.record({ key, record })), more: fc.boolean() }),
  },
  commit: {
    request: fc.record({ ns, delta }),
    answer: fc.oneof(
      fc.record({ ok: fc.constant(true as const), seq: count, counters: few(counters), leased: few(ino), replayed: fc.boolean() }),
      fc.record({ ok: fc.constant(false as const), failed: few(fc.integer({ min: 0, max: COMMIT_ITEMS_MAX - 1 })) }),
    ),
  },
  sync: { request: fc.record({ ns }), answer: fc.record({ seq: count }) },
  leaseRelease: { request: fc.record({ ns, inos: few(ino) }), answer: nothing },
  recall: { request: fc.record({ ns, inos: few(ino) }), answer: nothing },
  tenantLimit: {
    request: fc.record({ bytes: change, inodes: change, namespaces: change }),
    answer: fc.record({
      limits: fc.record({ bytes: limit, inodes: limit, namespaces: limit }),
      used: fc.record({ bytes: count, inodes: count, namespaces: count }),
    }),
  },
  credit: { request: fc.record({ bytes: count, needed: count }), answer: fc.record({ granted: count, overQuota: fc.boolean() }) },
  chunkPut: { request: fc.record({ id }), answer: fc.record({ existed: fc.boolean() }) },
  chunkRelease: { request: fc.record({ ids: few(id) }), answer: nothing },
  chunkGet: {
    request: fc.record({
      id,
      offset: fc.integer({ min: 0, max: SEALED_CHUNK_MAX_BYTES }),
      length: fc.integer({ min: 1, max: SEALED_CHUNK_MAX_BYTES }),
    }),
    answer: fc.record({ totalBytes: fc.integer({ min: 0, max: SEALED_CHUNK_MAX_BYTES }) }),
  },
  discover: {
    request: nothing,
    answer: fc.record({ fabrics: few(fc.record({ provider: text, domain: text })), ttlMs: count }),
  },
  rdmaOpen: {
    request: fc.record({
      provider: text,
      domain: text,
      name: bytes(1, 256),
      base: bytes(8, 8),
      key: bytes(8, 8),
      bytes: fc.integer({ min: 1, max: RDMA_MEMORY_MAX_BYTES }),
      macKey: bytes(32, 32),
    }),
    answer: fc.record({ name: bytes(0, 256) }),
  },
  rdmaProbe: { request: rdmaBody, answer: nothing },
  rdmaPut: { request: fc.record({ id, body: rdmaBody }), answer: fc.record({ existed: fc.boolean() }) },
  rdmaGet: {
    request: fc.record({
      id,
      offset: sealed,
      length: fc.integer({ min: 1, max: SEALED_CHUNK_MAX_BYTES }),
      at: fc.nat(RDMA_MEMORY_MAX_BYTES),
    }),
    answer: fc.record({ totalBytes: sealed, placed: sealed }),
  },
};

/** The msgpack header of an encoded frame, in memory of its own as FrameDecoder gives it. */
function headerOf(parts: Uint8Array[]): Uint8Array {
  return new Uint8Array((parts[0] as Uint8Array).subarray(FRAME_FIXED_BYTES));
}

const emptyDelta: Delta = {
  id: 1,
  answeredBelow: 1,
  checks: [],
  puts: [],
  deletes: [],
  deletePrefixes: [],
  bumps: [],
  leases: [],
  durable: false,
};

for (const op of Object.keys(Op) as OpName[]) {
  test(`${op}: what is encoded is decoded`, () => {
    roundTrip(op);
  });
}

function roundTrip<O extends OpName>(op: O): void {
  const { request, answer } = arbitraries[op] as { request: fc.Arbitrary<RequestOf<O>>; answer: fc.Arbitrary<AnswerOf<O>> };
  fc.assert(
    fc.property(request, (message) => {
      expect(decodeRequest(op, headerOf(encodeRequestFrame(op, 7, message)))).toEqual(message);
    }),
  );
  fc.assert(
    fc.property(answer, (message) => {
      expect(decodeAnswer(op, headerOf(encodeAnswerFrame(op, 7, message)))).toEqual(message);
    }),
  );
}

test("error answers carry their code and text; long text is cut", () => {
  for (const code of NODE_ERRORS) {
    const error = decodeError(headerOf(encodeErrorFrame("get", 3, code, "why not ö")));
    expect(error).toBeInstanceOf(NodeError);
    expect(error.code).toBe(code);
    expect(error.message).toBe("why not ö");
  }
  expect(decodeError(headerOf(encodeErrorFrame("get", 3, "io", "x".repeat(1e6)))).message.length).toBeLessThan(10_000);
});

test("fields beyond a limit are refused before anything is sent", () => {
  const want0 = { lease: false, region0MaxBytes: 0 };
  expect(() => encodeRequestFrame("get", 1, { ns: "../etc", keys: [] })).toThrow(RangeError);
  expect(() => encodeRequestFrame("get", 1, { ns: "a", keys: [new Uint8Array(RECORD_KEY_MAX_BYTES + 1)] })).toThrow(RangeError);
  expect(() => encodeRequestFrame("inode", 1, { ns: "a", ino: 0, want: want0 })).toThrow(RangeError);
  expect(() => encodeRequestFrame("inode", 1, { ns: "a", ino: 1.5, want: want0 })).toThrow(RangeError);
  expect(() => encodeRequestFrame("inoGrant", 1, { ns: "a", count: INO_GRANT_MAX + 1 })).toThrow(RangeError);
  expect(() => encodeRequestFrame("chunkPut", 1, { id: new Uint8Array(31) })).toThrow(RangeError);
  const deletes = Array.from({ length: COMMIT_ITEMS_MAX / 2 + 1 }, () => new Uint8Array(10));
  expect(() => encodeRequestFrame("commit", 1, { ns: "a", delta: { ...emptyDelta, deletes, deletePrefixes: deletes } })).toThrow(
    RangeError,
  );
  expect(() => encodeRequestFrame("chunkPut", 1, { id: new Uint8Array(32) }, [new Uint8Array(SEALED_CHUNK_MAX_BYTES + 1)])).toThrow(
    RangeError,
  );
  expect(() => encodeRequestFrame("ping", 1, {}, [new Uint8Array(1)])).toThrow(RangeError);
});

test("a commit as large as the limits allow goes through", () => {
  const chunks = Array.from({ length: 16_384 }, () => new Uint8Array(32));
  const put = { key: new Uint8Array(18), link: 0, chunks, value: new Uint8Array(RECORD_MAX_BYTES) };
  const more = { ...put, value: new Uint8Array(MIB) };
  const message = { ns: "a", delta: { ...emptyDelta, puts: [put, more] } };
  expect(decodeRequest("commit", headerOf(encodeRequestFrame("commit", 1, message)))).toEqual(message);
  // What would hold up everybody else for too long is refused.
  const tooMuch = (puts: (typeof put)[]) => () => encodeRequestFrame("commit", 1, { ns: "a", delta: { ...emptyDelta, puts } });
  expect(tooMuch([put, put])).toThrow("bytes in its records");
  expect(tooMuch([put, more, { ...more, chunks: [new Uint8Array(32)], value: new Uint8Array(1) }])).toThrow("references to chunks");
});

test("bytes that no encoder makes are a ProtocolError, and nothing else", () => {
  const ops = fc.constantFrom(...(Object.keys(Op) as OpName[]));
  const tryDecode = (op: OpName, header: Uint8Array): void => {
    for (const decode of [() => decodeRequest(op, header), () => decodeAnswer(op, header), () => decodeError(header)]) {
      try {
        decode();
      } catch (error) {
        expect(error).toBeInstanceOf(ProtocolError);
      }
    }
  };
  fc.assert(
    fc.property(ops, bytes(1, 200), (op, header) => tryDecode(op, header)),
    { numRuns: 3_000 },
  );
  // Values that look right, of the wrong type or number, nested at random.
  fc.assert(
    fc.property(ops, fc.array(fc.anything({ withTypedArray: true, maxDepth: 5 })), (op, message) => {
      tryDecode(op, pack(message));
    }),
    { numRuns: 2_000 },
  );
});

test("a flipped bit or a cut is a ProtocolError or another valid message", () => {
  fc.assert(
    fc.property(fc.constantFrom(...(Object.keys(Op) as OpName[])), fc.gen(), fc.nat(), fc.nat(), (op, g, where, cut) => {
      const message = g(() => arbitraries[op].request as fc.Arbitrary<never>);
      const header = headerOf(encodeRequestFrame(op, 1, message));
      const flipped = header.slice();
      const bit = where % (flipped.length * 8);
      flipped[bit >> 3] = (flipped[bit >> 3] as number) ^ (1 << (bit & 7));
      for (const damaged of [flipped, header.subarray(0, cut % header.length)]) {
        try {
          decodeRequest(op, damaged);
        } catch (error) {
          expect(error).toBeInstanceOf(ProtocolError);
        }
      }
      expect(() => decodeRequest(op, header.subarray(0, cut % header.length))).toThrow(ProtocolError);
      expect(() => decodeRequest(op, Buffer.concat([header, new Uint8Array(1)]))).toThrow(ProtocolError);
    }),
    { numRuns: 1_000 },
  );
});

test("MessagePack types that could build other things than data are refused", () => {
  const hex = (text: string): Uint8Array => new Uint8Array(Buffer.from(text, "hex"));
  const hostile = {
    map: "9181a16101",
    record: "91d4724093a161a162a16301",
    timestamp: "91d6ff00000000",
    "typed array": "91c70574040000000000",
    regexp: "91c7027890",
    error: "91c70165a0",
    "unused 0xc1": "91c1",
    uint64: "91cfffffffffffffffff",
    int64: "91d3ffffffffffffffff",
    float32: "91ca3f800000",
    "array of 4 billion": "ddffffffff",
    "string of 4 GiB": "91dbffffffff61",
    "bytes of 4 GiB": "91c6ffffffff61",
    "nested a thousand times": "91".repeat(1_000),
    "not an array": "01",
  };
  for (const [name, text] of Object.entries(hostile)) {
    expect(() => decodeRequest("keyPut", hex(text)), name).toThrow(ProtocolError);
  }
});

test("many tiny arrays cannot take more memory than a message is allowed", () => {
  const header = new Uint8Array(8 * 1024 * 1024).fill(0x90);
  header.set([0xdc, 0x40, 0x00]);
  expect(() => decodeRequest("get", header)).toThrow(ProtocolError);
});

/** MessagePack by a plain encoder, for shapes that ours does not make. */
function pack(value: unknown): Uint8Array {
  try {
    return new Uint8Array(new Packr({ useRecords: false, moreTypes: true }).pack(value));
  } catch {
    return new Uint8Array([0x90]);
  }
}
