/**
 * What went wrong on the cache's disk. Nobody who reads a file sees it: it is counted, said in the log once in a while, and when it
 * happens again and again the disk is not used any more in this session.
 */

interface FaultLog {
  warn(fields: object, message: string): void;
}

export type FaultKind =
  /** The bytes of a block are not those that were written. */
  | "crc"
  /** A file is shorter than it was. */
  | "short"
  /** A file or its folder is gone. */
  | "missing"
  | "io"
  | "no_space"
  | "read_only"
  | "other";

/** So many faults within the window, of reads or of writes, and the disk is given up for it. */
const FAULTS_MAX = 16;
const FAULTS_WINDOW_MS = 60_000;
/** The log has at most one line of faults in this time. */
const LOG_INTERVAL_MS = 10_000;
/** After a full disk nothing is inserted for so long: somebody else filled it, and trying costs a write each time. */
const NO_SPACE_PAUSE_MS = 5_000;

const KINDS: Readonly<Record<string, FaultKind>> = {
  ENOENT: "missing",
  ENOTDIR: "missing",
  ESTALE: "missing",
  EIO: "io",
  EUCLEAN: "io",
  ENODATA: "io",
  ENOSPC: "no_space",
  EDQUOT: "no_space",
  EROFS: "read_only",
};

/** What kind of fault a system error is. */
export function faultKind(error: unknown): FaultKind {
  const code = error instanceof Error && "code" in error ? error.code : "";
  return KINDS[String(code)] ?? "other";
}

/** The last FAULTS_MAX faults of one kind of use. */
class FaultWindow {
  readonly #atMs: number[] = [];

  /** True when there were too many. */
  add(nowMs: number): boolean {
    this.#atMs.push(nowMs);
    if (this.#atMs.length > FAULTS_MAX) this.#atMs.shift();
    return this.#atMs.length === FAULTS_MAX && nowMs - (this.#atMs[0] as number) < FAULTS_WINDOW_MS;
  }
}

export class DiskFaults {
  readonly counts: Partial<Record<FaultKind, number>> = {};
  readonly #path: string;
  readonly #log: FaultLog;
  readonly #reads = new FaultWindow();
  readonly #writes = new FaultWindow();
  #readsOff: string | null = null;
  #writesOff: string | null = null;
  #pausedUntilMs = 0;
  #loggedAtMs = Number.NEGATIVE_INFINITY;
  #notLogged = 0;

  /** @param path of the pool, for the log */
  constructor(path: string, log: FaultLog) {
    this.#path = path;
    this.#log = log;
  }

  get canRead(): boolean {
    return this.#readsOff === null;
  }

  /** Something may be inserted now. */
  get canWrite(): boolean {
    return this.#writesOff === null && this.canRead && (this.#pausedUntilMs === 0 || performance.now() >= this.#pausedUntilMs);
  }

  /** Why the disk is not used any more, or not written any more; null: it is used. */
  get outOfUse(): string | null {
    return this.#readsOff ?? this.#writesOff;
  }

  /** A read failed, or gave wrong bytes. */
  onRead(kind: FaultKind, detail: string): void {
    const nowMs = this.#note(kind, detail);
    if (this.#readsOff !== null || !this.#reads.add(nowMs)) return;
    this.#readsOff = `too many faults (${detail})`;
    this.#log.warn({ path: this.#path, faults: this.counts }, `the disk cache is out of use for this session: ${detail}`);
  }

  /** Something could not be written or deleted. */
  onWrite(kind: FaultKind, detail: string): void {
    const nowMs = this.#note(kind, detail);
    if (kind === "no_space") this.#pausedUntilMs = nowMs + NO_SPACE_PAUSE_MS;
    // A full disk will have room again; a read-only one stays so.
    if (this.#writesOff !== null || kind === "no_space") return;
    if (!this.#writes.add(nowMs) && kind !== "read_only") return;
    this.#writesOff = `nothing new is taken: too many faults (${detail})`;
    this.#log.warn({ path: this.#path, faults: this.counts }, `the disk cache takes nothing new in this session: ${detail}`);
  }

  #note(kind: FaultKind, detail: string): number {
    this.counts[kind] = (this.counts[kind] ?? 0) + 1;
    const nowMs = performance.now();
    if (nowMs - this.#loggedAtMs < LOG_INTERVAL_MS) {
      this.#notLogged++;
      return nowMs;
    }
    const more = this.#notLogged === 0 ? "" : ` (and ${this.#notLogged} more since the last such line)`;
    this.#log.warn({ path: this.#path, kind, faults: this.counts }, `disk cache: ${detail}; the data comes from the node instead${more}`);
    this.#loggedAtMs = nowMs;
    this.#notLogged = 0;
    return nowMs;
  }
}
