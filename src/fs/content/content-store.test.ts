import { expect, test } from "bun:test";
import { ARENA_MIN_BYTES, BlockArena } from "../../cache/memory/block-arena.ts";
import { CHUNK_MAX_BYTES } from "../../protocol/limits.ts";
import { chunkSource } from "../records/composition.ts";
import { ContentStore } from "./content-store.ts";

const chunk = (n: number) => chunkSource({ id: new Uint8Array(32).fill(n), epoch: 1, bytes: CHUNK_MAX_BYTES });
const blocks = (n: number, from: number, count: number) => Array.from({ length: count }, (_, i) => ({ source: chunk(n), block: from + i }));

function storeOf(get: (first: number) => Promise<void>): { arena: BlockArena; store: ContentStore } {
  const arena = new BlockArena(ARENA_MIN_BYTES);
  const put = () => Promise.reject(new Error("nothing is written here"));
  return { arena, store: new ContentStore(arena, { put, get: (_ref, first) => get(first) }, { caches: true }) };
}

test("a fetch that fails in part gives every cell back, also those that came later", async () => {
  const { arena, store } = storeOf(async (first) => {
    if (first === 0) throw new Error("no such chunk");
    await Bun.sleep(5);
  });
  await expect(store.bring([...blocks(1, 0, 16), ...blocks(1, 32, 16)], false)).rejects.toThrow();
  expect(arena.availableCount).toBe(arena.cellCount);
});

test("readers that together want more than there is all get their blocks, one after the other", async () => {
  const { arena, store } = storeOf(() => Bun.sleep(1));
  // Each wants 100 of 256 cells, in several requests.
  const readers = Array.from({ length: 8 }, async (_, n) => {
    const brought = await store.bring([...blocks(n, 0, 50), ...blocks(n + 100, 0, 50)], n % 2 === 0);
    expect(brought.cells.size).toBe(100);
    await Bun.sleep(1);
    brought.release();
  });
  await Promise.all(readers);
  expect(arena.availableCount).toBe(arena.cellCount);
});
