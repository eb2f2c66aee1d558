/** Which inodes (and folders) a delta touches: those whose leases it ends. */
import type { Delta } from "../../protocol/messages.ts";
import { inodeOfKey } from "../../protocol/record-keys.ts";

/** Inode numbers, distinct, in the order of their first mention. */
export function inosOfDelta(delta: Delta): number[] {
  const inos: number[] = [];
  // A delta touches a handful: a search in an array beats a Set until it is a batch of hundreds.
  const seen = delta.puts.length + delta.deletes.length > 64 ? new Set<number>() : null;
  const add = (ino: number) => {
    if (ino === 0) return;
    if (seen === null) {
      if (!inos.includes(ino)) inos.push(ino);
    } else if (!seen.has(ino)) {
      seen.add(ino);
      inos.push(ino);
    }
  };
  for (const put of delta.puts) add(inodeOfKey(put.key));
  for (const key of delta.deletes) add(inodeOfKey(key));
  for (const prefix of delta.deletePrefixes) add(inodeOfKey(prefix));
  for (const bump of delta.bumps) add(bump.ino);
  return inos;
}
