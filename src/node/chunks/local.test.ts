import { expect, test } from "bun:test";
import { mkdtempSync, readdirSync, readFileSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { SEALED_CHUNK_MAX_BYTES } from "../../protocol/limits.ts";
import { chunkStoreConformance } from "./conformance.ts";
import { LocalChunkStore } from "./local.ts";

function makeStore(): { folder: string; open: () => LocalChunkStore } {
  const folder = mkdtempSync(join(tmpdir(), "kiseki-chunks-"));
  return { folder, open: () => new LocalChunkStore(join(folder, "chunks"), join(folder, "tmp")) };
}

chunkStoreConformance("local", () => {
  const { folder, open } = makeStore();
  return { open, destroy: () => rmSync(folder, { recursive: true }) };
});

const ID = new Uint8Array(32).fill(0xab);
const PATH = join("chunks", "ab", "ab".repeat(32));

test("a changed or cut file is damaged, and a new put heals it", async () => {
  const { folder, open } = makeStore();
  const store = open();
  const body = new Uint8Array(1_000).fill(5);
  await store.put(ID, body);
  const file = readFileSync(join(folder, PATH));
  file[500] = 6;
  writeFileSync(join(folder, PATH), file);
  expect(store.get(ID, 0, SEALED_CHUNK_MAX_BYTES)).rejects.toMatchObject({ code: "damaged" });
  expect(await store.verify(ID)).toContain("checksum");
  expect(await store.put(ID, body)).toEqual({ existed: false });
  expect(await store.verify(ID)).toBeNull();
  truncateSync(join(folder, PATH), 3);
  expect(await store.verify(ID)).toContain("cut short");
  expect(await store.put(ID, body)).toEqual({ existed: false });
  expect(await store.verify(ID)).toBeNull();
  rmSync(folder, { recursive: true });
});

test("what was half written before a restart is never visible, and goes", async () => {
  const { folder, open } = makeStore();
  open();
  writeFileSync(join(folder, "tmp", "123-0"), new Uint8Array(100));
  const store = open();
  expect(readdirSync(join(folder, "tmp"))).toEqual([]);
  expect(await store.exists(ID)).toBeFalse();
  rmSync(folder, { recursive: true });
});
