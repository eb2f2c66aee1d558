/** What a process has in its memory, as root sees it: the same bytes that a core dump of it would have (gcore). */
import { closeSync, openSync, readFileSync, readSync } from "node:fs";

const PIECE_BYTES = 8 * 2 ** 20;

/**
 * How often each needle occurs in the readable memory of a process that stands still (SIGSTOP). Memory of files alone (programs, libraries, the local
 * cache's own pages) counts as well, device memory does not.
 */
export function countInImage(pid: number, needles: readonly Uint8Array[]): number[] {
  const counts = needles.map(() => 0);
  const overlap = Math.max(...needles.map(({ length }) => length)) - 1;
  const piece = Buffer.alloc(PIECE_BYTES + overlap);
  const memory = openSync(`/proc/${pid}/mem`, "r");
  try {
    for (const line of readFileSync(`/proc/${pid}/maps`, "latin1").split("\n")) {
      const [, from = "0", to = "0", mode = ""] = /^([0-9a-f]+)-([0-9a-f]+) (\S+)/.exec(line) ?? [];
      if (!mode.startsWith("r") || /\[v(var|syscall)/.test(line)) continue;
      let kept = 0;
      for (let at = BigInt(`0x${from}`); at < BigInt(`0x${to}`); ) {
        const left = BigInt(`0x${to}`) - at;
        const length = Math.min(PIECE_BYTES, Number(left));
        let got = 0;
        try {
          got = readSync(memory, piece, kept, length, at as unknown as number);
        } catch {
          break; // a page that can't be read, such as one of a file that was cut
        }
        if (got === 0) break;
        const text = piece.subarray(0, kept + got);
        needles.forEach((needle, i) => {
          for (let found = text.indexOf(needle); found >= 0; found = text.indexOf(needle, found + 1)) {
            if (found + needle.length > kept || kept === 0) counts[i] = (counts[i] ?? 0) + 1;
          }
        });
        kept = Math.min(overlap, text.length);
        text.copyWithin(0, text.length - kept);
        at += BigInt(got);
      }
    }
  } finally {
    closeSync(memory);
  }
  return counts;
}
