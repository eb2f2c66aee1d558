/** Reads a whole shard and says what is damaged: `kiseki serve --verify`. */
import type { Database } from "bun:sqlite";
import { inodeOfKey } from "../../protocol/record-keys.ts";
import { chunkIdOf, chunkName, decodeChunkList } from "./chunk-list.ts";
import { type KeyedRecordRow, recordCrc } from "./sqlite-database.ts";

/** Rows between two turns of the event loop. */
const STEP = 1_000;

function hex(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString("hex");
}

/** One line for each damage. `onChunk` gets each chunk that some record refers to, once. */
export async function* verifyShard(db: Database, onChunk: (id: Uint8Array) => void): AsyncGenerator<string> {
  using integrity = db.prepare<{ integrity_check: string }, []>("PRAGMA integrity_check");
  for (const row of integrity.all()) {
    if (row.integrity_check !== "ok") yield `database: ${row.integrity_check}`;
  }
  const declared = new Map<string, number>();
  using page = db.prepare<KeyedRecordRow & { chunks: Uint8Array | null }, [Uint8Array, number]>(
    "SELECT key, version, link, crc, chunks, value FROM records WHERE key > ? ORDER BY key LIMIT ?",
  );
  for (let after: Uint8Array = new Uint8Array(0); ; ) {
    const rows = page.all(after, STEP);
    for (const row of rows) {
      if (recordCrc(row.key, row.version, row.link, row.value) !== row.crc) {
        yield `record ${hex(row.key)} (inode ${inodeOfKey(row.key)}): checksum differs`;
      }
      try {
        for (const name of decodeChunkList(row.chunks)) declared.set(name, (declared.get(name) ?? 0) + 1);
      } catch {
        yield `record ${hex(row.key)} (inode ${inodeOfKey(row.key)}): checksum of its chunk list differs`;
      }
    }
    const last = rows.at(-1);
    if (last === undefined) break;
    after = last.key;
    await new Promise((resolve) => setImmediate(resolve));
  }
  for (const name of declared.keys()) onChunk(chunkIdOf(name));
  using counted = db.prepare<{ id: Uint8Array; refs: number }, []>("SELECT id, refs FROM chunk_refs");
  for (const { id, refs } of counted.all()) {
    const expected = declared.get(chunkName(id)) ?? 0;
    declared.delete(chunkName(id));
    if (refs !== expected) yield `chunk ${hex(id)}: counted ${refs} references, records declare ${expected}`;
  }
  for (const [name, expected] of declared) yield `chunk ${hex(chunkIdOf(name))}: counted 0 references, records declare ${expected}`;
}
