import { beforeEach, expect, test } from "bun:test";
import { IntegrityError } from "../crypto/integrity-error.ts";
import { KeyRing } from "../crypto/key-ring.ts";
import { TransportError } from "../protocol/errors.ts";
import type { BodySink } from "../protocol/frame.ts";
import { BLOCK_BYTES } from "../protocol/limits.ts";
import type { ChunkNode } from "./chunk-node.ts";
import { ChunkPipeline } from "./chunk-pipeline.ts";

const keys = KeyRing.fromMaterial({ keys: [{ epoch: 1, key: new Uint8Array(32) }] });
const arena = new SharedArrayBuffer(16 * BLOCK_BYTES);

/** A node in memory whose answers wait for `gate`. */
class FakeNode implements ChunkNode {
  readonly chunks = new Map<string, Uint8Array>();
  gate: Promise<void> = Promise.resolve();
  inFlight = 0;
  maxInFlight = 0;

  async put(id: Uint8Array, sealed: Uint8Array): Promise<void> {
    await this.#pass();
    this.chunks.set(id.toHex(), sealed.slice());
  }

  async get(id: Uint8Array, offset: number, into: BodySink): Promise<number> {
    await this.#pass();
    const chunk = this.chunks.get(id.toHex()) as Uint8Array;
    into.begin();
    into.write(chunk.subarray(offset, offset + into.length));
    return chunk.length;
  }

  async #pass(): Promise<void> {
    this.maxInFlight = Math.max(this.maxInFlight, ++this.inFlight);
    await this.gate;
    this.inFlight--;
  }
}

let node: FakeNode;
beforeEach(() => {
  node = new FakeNode();
  for (let i = 0; i < 16; i++) new Uint8Array(arena, i * BLOCK_BYTES, BLOCK_BYTES).fill(i + 1);
});

test("no more transfers run than there are buffers; the others follow, and each gets its own bytes", async () => {
  const pipeline = new ChunkPipeline({ arena, keys, node, buffers: { large: 1, small: 2 } });
  const gate = Promise.withResolvers<void>();
  node.gate = gate.promise;
  const puts = Array.from({ length: 8 }, (_, cell) => pipeline.put([cell], 100 + cell, 10_000));
  await Bun.sleep(5);
  expect(node.inFlight).toBe(2);
  gate.resolve();
  const refs = await Promise.all(puts);
  expect(node.maxInFlight).toBe(2);
  await Promise.all(refs.map((ref, i) => pipeline.get(ref, 0, [8 + i], 10_000)));
  for (let i = 0; i < 8; i++) expect(new Uint8Array(arena, (8 + i) * BLOCK_BYTES, 100 + i).every((byte) => byte === i + 1)).toBe(true);
});

test("small transfers don't wait for the buffers of large ones", async () => {
  const pipeline = new ChunkPipeline({ arena, keys, node, buffers: { large: 1, small: 1 } });
  const gate = Promise.withResolvers<void>();
  node.gate = gate.promise;
  const large = [pipeline.put([0, 1, 2], 3 * BLOCK_BYTES, 10_000), pipeline.put([3, 4, 5], 3 * BLOCK_BYTES, 10_000)];
  node.gate = Promise.resolve();
  expect((await pipeline.put([6], 10, 10_000)).bytes).toBe(10);
  gate.resolve();
  await Promise.all(large);
});

test("the wait for a buffer counts towards the deadline, and a failed transfer gives its buffer back", async () => {
  const pipeline = new ChunkPipeline({ arena, keys, node, buffers: { large: 0, small: 1 } });
  const gate = Promise.withResolvers<void>();
  node.gate = gate.promise;
  const first = pipeline.put([0], 10, 10_000);
  const second = pipeline.put([1], 10, 5).catch((error: unknown) => error);
  await Bun.sleep(20);
  gate.resolve();
  await first;
  expect(((await second) as TransportError).kind).toBe("timeout");
  node.gate = Promise.reject(new TransportError("aborted", "x"));
  expect(await pipeline.put([0], 10, 1_000).catch((error: unknown) => error)).toBeInstanceOf(TransportError);
  node.gate = Promise.resolve();
  expect((await pipeline.put([0], 10, 1_000)).bytes).toBe(10);
});

test("without large buffers, large transfers are refused", async () => {
  const pipeline = new ChunkPipeline({ arena, keys, node, buffers: { large: 0, small: 1 } });
  await expect(pipeline.put([0, 1, 2], 3 * BLOCK_BYTES, 1_000)).rejects.toThrow(RangeError);
});

test("a stored chunk of another length is refused, even where the blocks asked for are whole", async () => {
  const pipeline = new ChunkPipeline({ arena, keys, node, buffers: { large: 1, small: 1 } });
  const ref = await pipeline.put([0, 1, 2], 3 * BLOCK_BYTES, 1_000);
  const stored = node.chunks.get(ref.id.toHex()) as Uint8Array;
  node.chunks.set(ref.id.toHex(), stored.subarray(0, stored.length - 1));
  await expect(pipeline.get(ref, 0, [9], 1_000)).rejects.toThrow(IntegrityError);
});
