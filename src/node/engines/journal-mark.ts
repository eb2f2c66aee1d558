import { randomInt } from "node:crypto";
import { MARK_BYTES } from "./journal-entry.ts";
import type { Statements } from "./sqlite-database.ts";

/**
 * What a shard's journal entries begin with: made with the shard, and kept in its database. Six of its bytes are random, so that they
 * fit a number.
 */
export function journalMark(sql: Pick<Statements, "getMeta" | "setMeta">): Uint8Array {
  let random = sql.getMeta.get("journalMark")?.value ?? 0;
  if (random === 0) {
    random = randomInt(1, 2 ** 48 - 1);
    sql.setMeta.run("journalMark", random);
  }
  const mark = Buffer.from("kj\0\0\0\0\0\0", "latin1");
  mark.writeUIntBE(random, MARK_BYTES - 6, 6);
  return mark;
}
