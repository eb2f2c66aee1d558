/**
 * Writes a WAL again whose sync has failed. The kernel calls pages clean that it could not write, and may drop them: so the frames' checksums
 * tell whether what is read back is still what SQLite wrote. The format: sqlite.org/fileformat2.html, section 4.
 */
import { fdatasyncSync, readSync, writeSync } from "node:fs";
import { NodeError } from "../../protocol/errors.ts";

/** Checksums of a file with this magic are over little-endian words: those of the machine that writes it. */
const MAGIC = 0x377f0682;
const HEADER_BYTES = 32;
const FRAME_HEADER_BYTES = 24;
/** In the file's header, and in each frame's: its generation. */
const HEADER_SALTS = 16;
const FRAME_SALTS = 8;
const SALTS_BYTES = 8;
/** What the checksum covers of the file's header, and of a frame's. */
const HEADER_CHECKED_BYTES = 24;
const FRAME_CHECKED_BYTES = 8;

/** SQLite's running checksum: two sums over pairs of 32-bit words. */
class Checksum {
  #first = 0;
  #second = 0;

  add(bytes: Buffer): void {
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    let first = this.#first;
    let second = this.#second;
    for (let at = 0; at < bytes.length; at += 8) {
      first = (first + view.getUint32(at, true) + second) | 0;
      second = (second + view.getUint32(at + 4, true) + first) | 0;
    }
    this.#first = first;
    this.#second = second;
  }

  /** They are stored big-endian, whatever the words are. */
  isAt(buffer: Buffer, at: number): boolean {
    return buffer.readInt32BE(at) === this.#first && buffer.readInt32BE(at + 4) === this.#second;
  }
}

/**
 * Reads the file's header and the first `frames` frames, writes each as it was, and syncs.
 * @throws the system's errors; NodeError "damaged" when not all of it is as SQLite wrote it
 */
export function rewriteWal(fd: number, frames: number): void {
  if (frames > 0) {
    const checksum = new Checksum();
    const header = again(fd, 0, Buffer.alloc(HEADER_BYTES), (bytes) => {
      checksum.add(bytes.subarray(0, HEADER_CHECKED_BYTES));
      return bytes.readUInt32BE(0) === MAGIC && checksum.isAt(bytes, HEADER_CHECKED_BYTES);
    });
    const frame = Buffer.alloc(FRAME_HEADER_BYTES + header.readUInt32BE(8));
    for (let i = 0; i < frames; i++) {
      again(fd, HEADER_BYTES + i * frame.length, frame, (bytes) => {
        checksum.add(bytes.subarray(0, FRAME_CHECKED_BYTES));
        checksum.add(bytes.subarray(FRAME_HEADER_BYTES));
        const ofThisFile = bytes.compare(header, HEADER_SALTS, HEADER_SALTS + SALTS_BYTES, FRAME_SALTS, FRAME_SALTS + SALTS_BYTES) === 0;
        return ofThisFile && checksum.isAt(bytes, FRAME_SALTS + SALTS_BYTES);
      });
    }
  }
  fdatasyncSync(fd);
}

function again(fd: number, at: number, bytes: Buffer, isRight: (bytes: Buffer) => boolean): Buffer {
  if (readSync(fd, bytes, 0, bytes.length, at) !== bytes.length || !isRight(bytes)) {
    throw new NodeError("damaged", "the disk has lost a part of the write-ahead log");
  }
  for (let done = 0; done < bytes.length; ) done += writeSync(fd, bytes, done, bytes.length - done, at + done);
  return bytes;
}
