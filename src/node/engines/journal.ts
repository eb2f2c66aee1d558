/**
 * A shard's journal: what was applied since the database was last committed and synced. Two files take turns.
 *
 *   append   entries go to the current file with one write, before the deltas are answered: they survive the end of this process
 *   sync     fdatasync of it: they survive power loss
 *   turn     the database has just been committed, so the other file becomes the current one; the old one is kept until the
 *            commit itself survives power loss, see release()
 *   read     at start, and when the open transaction was lost: the chain of entries that follows what the database holds
 *
 * The files are written over and over and never cut (but for an oversized one), because an fdatasync after writing into blocks
 * that a file already has costs half of one after an append, and needs no room on the disk. So behind the last entry there are old
 * ones. They cannot be taken for new ones: each names its predecessor, and no sequence number is used twice.
 *
 * What is not in the chain was not promised: torn entries, and those written after one that a power failure has lost. That is
 * checked: every entry says how far the journal was known to be on disk, and where one says so of what is missing, the disk has lost
 * what it had: "damaged".
 */
import { fdatasyncSync, fstatSync, ftruncateSync, openSync, readSync, writeSync } from "node:fs";
import { NodeError } from "../../protocol/errors.ts";
import { FileSync } from "./file-sync.ts";
import { type EntryWriter, findEntries, type JournalEntry, MARK_BYTES } from "./journal-entry.ts";

/** Files grow by zeros in steps of this many bytes. */
const GROW_BYTES = 256 * 1024;
/** A file above this size, after a huge delta, is cut back when it is used again. */
const KEEP_BYTES = 8 * 1024 * 1024;
/** An entry without its mark is none. */
const ERASED_BYTES = MARK_BYTES;

class JournalFile {
  readonly path: string;
  readonly file: FileSync;
  /** Bytes that the file has on disk: within them a write needs no new blocks. */
  size: number;
  /** Bytes of entries since the file's turn began. */
  length = 0;
  /** Sequence number of the last entry since then; 0: none. */
  lastSeq = 0;
  syncedSeq = 0;
  /** Its entries are still needed, though it is not the current file. */
  held = false;

  constructor(path: string) {
    this.path = path;
    // O_RDWR | O_CREAT, without O_TRUNC or O_APPEND: "a+" would ignore positions.
    this.file = new FileSync(openSync(path, READ_WRITE_CREATE, 0o600));
    this.size = fstatSync(this.file.fd).size;
  }

  read(): Buffer {
    const buffer = Buffer.allocUnsafeSlow(fstatSync(this.file.fd).size);
    let done = 0;
    while (done < buffer.length) {
      const count = readSync(this.file.fd, buffer, done, buffer.length - done, done);
      if (count === 0) break;
      done += count;
    }
    return buffer.subarray(0, done);
  }
}

const READ_WRITE_CREATE = 0o2 | 0o100;
const zeros = new Uint8Array(GROW_BYTES);

export class Journal {
  readonly #files: readonly [JournalFile, JournalFile];
  readonly #mark: Uint8Array;
  #current: JournalFile;
  #syncedSeq = 0;
  /** Until the first clear() the files hold what an earlier process has left. */
  #inherited = true;

  /** Opens or makes `<path>-0` and `<path>-1`, whose entries begin with `mark`. @throws the system's errors */
  constructor(path: string, mark: Uint8Array) {
    this.#mark = mark;
    const first = new JournalFile(`${path}-0`);
    this.#current = first;
    try {
      this.#files = [first, new JournalFile(`${path}-1`)];
    } catch (error) {
      first.file.close();
      throw error;
    }
  }

  /** Bytes of entries in the current file. */
  get length(): number {
    return this.#current.length;
  }
  /** Entries up to this one survive power loss. */
  get syncedSeq(): number {
    return this.#syncedSeq;
  }
  /** True when the other file is free: turn() can be called. */
  get canTurn(): boolean {
    return !this.#other.held;
  }

  get #other(): JournalFile {
    return this.#current === this.#files[0] ? this.#files[1] : this.#files[0];
  }

  /** Makes sure that an append of `bytes` will not fail for want of room. @throws the system's ENOSPC */
  reserve(bytes: number): void {
    const file = this.#current;
    const end = file.length + bytes;
    while (file.size < end) file.size += writeSync(file.file.fd, zeros, 0, zeros.length, file.size);
  }

  /** `lastSeq`: of the last entry in `entries`. @throws the system's errors; what was half written counts as not there */
  append(entries: EntryWriter, lastSeq: number): void {
    const file = this.#current;
    const { bytes } = entries;
    try {
      for (let done = 0; done < bytes.length; ) done += writeSync(file.file.fd, bytes, done, bytes.length - done, file.length + done);
    } catch (error) {
      this.#erase(file);
      throw error;
    }
    file.length += bytes.length;
    file.size = Math.max(file.size, file.length);
    file.lastSeq = lastSeq;
  }

  /** Refused deltas must not come back with a restart. */
  #erase(file: JournalFile): void {
    try {
      writeSync(file.file.fd, zeros, 0, ERASED_BYTES, file.length);
    } catch {
      // Then they may: the disk fails, and who was refused cannot know either way.
    }
  }

  /** Resolves when all that was appended survives power loss. @throws the system's error; then always, until the files have taken turns */
  async sync(): Promise<void> {
    const waits: Promise<void>[] = [];
    for (const file of this.#files) {
      if ((file === this.#current || file.held) && file.syncedSeq < file.lastSeq) waits.push(this.#syncFile(file));
    }
    await Promise.all(waits);
  }

  async #syncFile(file: JournalFile): Promise<void> {
    const seq = file.lastSeq;
    await file.file.sync();
    file.syncedSeq = Math.max(file.syncedSeq, seq);
    // With the other file unsynced, entries before this one's first may be missing.
    if (!this.#other.held || this.#other.syncedSeq >= this.#other.lastSeq) this.#syncedSeq = Math.max(this.#syncedSeq, seq);
  }

  /** The database holds all entries: new ones go to the other file. The old file stays as it is until release(). */
  turn(): void {
    const next = this.#other;
    if (next.held) throw new Error("the journal's other file is still needed");
    this.#current.held = true;
    this.#begin(next);
  }

  #begin(file: JournalFile): void {
    if (file.file.failed) this.#renew(file);
    file.length = 0;
    file.lastSeq = 0;
    file.syncedSeq = 0;
    file.held = false;
    this.#current = file;
    if (file.size > KEEP_BYTES) {
      ftruncateSync(file.file.fd, KEEP_BYTES);
      file.size = KEEP_BYTES;
    }
  }

  /** ext4 can lose, though it syncs, what is written where a sync has failed before: the file gets new blocks. */
  #renew(file: JournalFile): void {
    try {
      ftruncateSync(file.file.fd, 0);
      file.size = 0;
      file.file.forget();
    } catch {
      // sync() goes on failing, and whoever recovers from that comes here again.
    }
  }

  /** What was in the old file when turn() was called survives power loss in the database. */
  release(): void {
    const old = this.#other;
    if (old.held) this.#syncedSeq = Math.max(this.#syncedSeq, old.lastSeq);
    old.held = false;
  }

  /** The same for both files: all that was ever appended is safe in the database. */
  clear(): void {
    this.#inherited = false;
    this.release();
    this.#begin(this.#current);
  }

  /**
   * The entries that follow `seq`, in order.
   * @throws NodeError "damaged" when some are missing that were on disk
   */
  entriesAfter(seq: number): JournalEntry[] {
    // Behind the present entries there may be some that were refused: they could not be written whole.
    const contents = this.#inherited ? this.#files.map((file) => file.read()) : [this.#current.read().subarray(0, this.#current.length)];
    const next = new Map<number, JournalEntry>();
    let syncedSeq = 0;
    for (const content of contents) {
      for (const entry of findEntries(content, this.#mark)) {
        // Of those that follow the same one, all but the last were refused; where they stand they need not have been overwritten.
        if ((next.get(entry.previousSeq)?.seq ?? 0) < entry.seq) next.set(entry.previousSeq, entry);
        syncedSeq = Math.max(syncedSeq, entry.syncedSeq);
      }
    }
    const found: JournalEntry[] = [];
    let last = seq;
    for (let entry = next.get(last); entry !== undefined && entry.seq > last; entry = next.get(last)) {
      found.push(entry);
      last = entry.seq;
    }
    if (syncedSeq > last) throw new NodeError("damaged", `the journal ends at delta ${last}, and ${syncedSeq} was on disk`);
    return found;
  }

  /** Makes what an earlier process has left survive power loss. @throws the system's error */
  syncInherited(): void {
    for (const { file } of this.#files) fdatasyncSync(file.fd);
  }

  close(): void {
    for (const { file } of this.#files) file.close();
  }
}
