import { expect, test } from "bun:test";
import type { NamespaceState, StoreState } from "../protocol/messages.ts";
import { StoreMemory } from "./store-memory.ts";
import { id } from "./test-scripted-node.ts";

const at = (seq: number, more: Partial<NamespaceState> = {}): NamespaceState => ({
  name: "n",
  id: new Uint8Array(8).fill(1),
  seq,
  durableSeq: seq,
  recoveredSeq: seq,
  ...more,
});
const store = (more: Partial<StoreState> = {}): StoreState => ({
  instance: id(1),
  start: 5,
  startId: id(5),
  knowsLastStart: true,
  namespaces: [at(10)],
  ...more,
});
const commit = (memory: StoreMemory, seq: number, durable: boolean): void =>
  memory.answered("commit", { ns: "n", delta: { durable } } as never, { ok: true, seq, counters: [], leased: [], replayed: false });

/** A client that has met the node, and was answered up to delta 20, of which 15 is durable. */
function known(): StoreMemory {
  const memory = new StoreMemory(null);
  expect(memory.meet(store())).toEqual({ kind: "same", lost: [] });
  commit(memory, 15, true);
  commit(memory, 20, false);
  return memory;
}

test("the same node, further on, with and without a restart that lost nothing", () => {
  expect(known().meet(store({ namespaces: [at(20)] }))).toEqual({ kind: "same", lost: [] });
  expect(known().meet(store({ start: 6, startId: id(6), namespaces: [at(900, { recoveredSeq: 20 })] }))).toEqual({
    kind: "same",
    lost: [],
  });
});

test("a node that lost only what was never durable is the same, and says where it is", () => {
  const memory = known();
  const verdict = memory.meet(store({ start: 6, startId: id(6), namespaces: [at(900, { recoveredSeq: 17 })] }));
  expect(verdict).toMatchObject({ kind: "same", lost: [{ name: "n", recoveredSeq: 17 }] });
  // Told once: from then on hello names the start that it was told of.
  expect(memory.startId).toEqual(id(6));
  expect(memory.meet(store({ start: 6, startId: id(6), namespaces: [at(901)] }))).toEqual({ kind: "same", lost: [] });
});

test("where nobody knows what was lost, all that was not durable counts as lost", () => {
  const verdict = known().meet(store({ start: 99, startId: id(9), namespaces: [at(900, { recoveredSeq: 0 })] }));
  expect(verdict).toMatchObject({ kind: "same", lost: [{ recoveredSeq: 15 }] });
});

test("what a node said was durable must be there, also for who has only read", () => {
  const reader = new StoreMemory(null);
  expect(reader.meet(store({ namespaces: [] }))).toMatchObject({ kind: "same" });
  reader.answered("namespaceState", { ns: "n" }, { state: at(30, { durableSeq: 25 }) });
  expect(reader.namespaces).toEqual(["n"]);
  expect(reader.meet(store({ namespaces: [at(24)] }))).toMatchObject({ kind: "went-back" });
  expect(reader.meet(store({ namespaces: [at(29)] }))).toMatchObject({ kind: "same", lost: [] });
});

test("what was read of a future that was lost counts as lost", () => {
  const reader = new StoreMemory(null);
  reader.meet(store({ namespaces: [] }));
  const attr = { version: 40, link: 0, value: new Uint8Array(0) };
  reader.answered(
    "inode",
    { ns: "n", ino: 5, want: { lease: false, region0MaxBytes: 0 } },
    {
      inode: { ino: 5, attr, counters: null, region0: null, leased: false },
    },
  );
  const verdict = reader.meet(store({ start: 6, startId: id(6), namespaces: [at(38)] }));
  expect(verdict).toMatchObject({ kind: "same", lost: [{ name: "n", recoveredSeq: 38 }] });
});

test("a namespace that was deleted and made again is another one: all that was known of it is lost, and it has not gone back", () => {
  const memory = known();
  memory.meet(store({ namespaces: [at(20)] }));
  const other = new Uint8Array(8).fill(2);
  expect(memory.meet(store({ namespaces: [at(3, { id: other })] }))).toMatchObject({
    kind: "same",
    lost: [{ name: "n", recoveredSeq: 0 }],
  });
  expect(memory.meet(store({ namespaces: [at(4, { id: other })] }))).toMatchObject({ kind: "same", lost: [] });
});

test("behind what was durable", () => {
  expect(known().meet(store({ start: 6, startId: id(6), namespaces: [at(14)] }))).toMatchObject({
    kind: "went-back",
    why: expect.stringContaining("delta 15 was said to be durable"),
  });
  expect(known().meet(store({ namespaces: [at(14)] }))).toMatchObject({ kind: "went-back" });
  const memory = new StoreMemory(null);
  memory.meet(store());
  memory.answered("sync", { ns: "n" }, { seq: 30 });
  expect(memory.meet(store({ namespaces: [at(29)] }))).toMatchObject({ kind: "went-back" });
});

test("a start that it does not know was another future's, whatever its numbers say", () => {
  expect(known().meet(store({ knowsLastStart: false, namespaces: [at(1_000)] }))).toMatchObject({ kind: "went-back" });
});

test("another instance; and after it the right one again", () => {
  const memory = known();
  expect(memory.meet(store({ instance: id(9) }))).toMatchObject({
    kind: "other",
    why: expect.stringContaining("unmount, and mount again"),
  });
  expect(memory.startId).toEqual(id(5));
  expect(memory.meet(store({ namespaces: [at(20)] }))).toEqual({ kind: "same", lost: [] });
});

test("a namespace that was deleted is no reason to refuse", () => {
  expect(known().meet(store({ namespaces: [] }))).toEqual({ kind: "same", lost: [] });
});

test("what another process knew is known again", () => {
  const memory = new StoreMemory(structuredClone(known().toKnown()));
  expect(memory.startId).toEqual(id(5));
  expect(memory.meet(store({ namespaces: [at(14)] }))).toMatchObject({ kind: "went-back" });
  expect(new StoreMemory(null).toKnown()).toBeNull();
});
