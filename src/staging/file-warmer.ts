/**
 * Reads of a database that is not in the kernel's cache cost a disk's round trip each, one after the other, on the request loop. When
 * several have, the whole file is read in once, from start to end, in the background: 10,000 small files are then there in 50 ms.
 */
import { open } from "node:fs/promises";
import { KIB, MIB } from "../protocol/limits.ts";

/** A read from memory takes some 5 us, one from an NVMe disk 50 and more. */
const COLD_READ_MS = 0.04;
const COLD_READS = 8;
/** Larger files are not read in: they would push out what others have in the kernel's cache. */
const FILE_MAX_BYTES = 512 * MIB;
const PIECE_BYTES = 512 * KIB;
/** What was read in stays, as a rule; it is not done again before this. */
const AGAIN_MS = 1_000;

export class FileWarmer {
  readonly #path: string;
  #coldReads = 0;
  #warming = false;
  #warmedAtMs = Number.NEGATIVE_INFINITY;

  constructor(path: string) {
    this.#path = path;
  }

  /** A read took so long. */
  onRead(tookMs: number): void {
    if (tookMs < COLD_READ_MS || ++this.#coldReads < COLD_READS) return;
    this.#coldReads = 0;
    if (this.#warming || performance.now() - this.#warmedAtMs < AGAIN_MS) return;
    this.#warming = true;
    // Where it fails, reads go on being slow.
    this.#warm()
      .catch(() => undefined)
      .finally(() => {
        this.#warming = false;
        this.#warmedAtMs = performance.now();
      });
  }

  async #warm(): Promise<void> {
    await using file = await open(this.#path, "r");
    const { size } = await file.stat();
    if (size > FILE_MAX_BYTES) return;
    const buffer = new Uint8Array(PIECE_BYTES);
    for (let at = 0; at < size; at += PIECE_BYTES) await file.read(buffer, 0, PIECE_BYTES, at);
  }
}
