/**
 * The space that the node has set aside for this mount, so that what write(2) has accepted finds room when it is sent. Asked for in portions: one
 * round trip for many writes, and ahead of them where a portion is half used.
 *
 * What is known here is never more than what the node holds: what leaves this client counts as used up, also where it was given up unsent. Each
 * request says anew what is needed, and sets that right.
 */
import { MIB } from "../../protocol/limits.ts";
import { FsError } from "../posix/errno.ts";
import { type NodeCalls, toFsError } from "../shard/node-calls.ts";

/** Asked for beyond what is needed: a writer of 500 MiB/s asks four times a second, and has a quarter of a second to wait for the answer. */
const PORTION_BYTES = 256 * MIB;
/** Of what is less than this nothing is asked for ahead: little is left, and each request would bring less. */
const AHEAD_MIN_BYTES = 32 * MIB;
/** What nobody has used for this long goes back to the node. */
const IDLE_MS = 2_000;

/** What the mount has accepted and the node not stored, in bytes that this takes at most. */
export interface Owed {
  readonly bytes: number;
  /** Of these, what has been written. The rest is set aside for later. */
  readonly writtenBytes: number;
  /** All that was owed once and is not any more. */
  readonly settledBytes: number;
}

export class SpaceCredit {
  readonly #calls: Pick<NodeCalls, "call">;
  readonly #owed: Owed;
  /** What was granted, and what was settled when it was asked for, together. */
  #grantedUntil = 0;
  #asking: Promise<void> | null = null;
  /** What the last answer left beyond what was owed. */
  #lastSpare = 0;
  /** The node may hold something for this mount. */
  #mayHold = false;
  /** Why the last answer was less than what was needed; null: it was not. */
  #refusal: FsError | null = null;
  #usedAtMs = 0;
  /** Times that there was not enough: what was known of the space before is out of date. */
  refusals = 0;

  constructor(calls: Pick<NodeCalls, "call">, owed: Owed) {
    this.#calls = calls;
    this.#owed = owed;
  }

  /** Bytes that can be accepted without asking. Negative where more had to be taken on than was granted. */
  get spare(): number {
    return this.#grantedUntil - this.#owed.settledBytes - this.#owed.bytes;
  }

  /** Bytes were accepted: asks ahead where the portion is half used. */
  used(): void {
    this.#usedAtMs = performance.now();
    if (this.#asking !== null || this.#lastSpare < AHEAD_MIN_BYTES || this.spare >= this.#lastSpare / 2) return;
    this.#ask(0).catch(() => undefined);
  }

  /** Less is set aside for later: what is not needed goes back. */
  released(): void {
    this.#mayHold = true;
    this.#usedAtMs = performance.now();
  }

  /** Resolves when there may be room for `bytes` more, which the caller looks at again. @throws FsError EDQUOT, ENOSPC; or the node can't be asked */
  async obtain(bytes: number): Promise<void> {
    if (this.#asking !== null) {
      await this.#asking;
      if (this.spare >= bytes) return;
    }
    await this.#ask(bytes);
    if (this.spare < bytes && this.#refusal !== null) throw this.#refusal;
  }

  /** Gives back what nobody has used for a while. */
  rest(): void {
    if (this.#asking !== null || !this.#mayHold || this.#owed.writtenBytes > 0 || performance.now() - this.#usedAtMs < IDLE_MS) return;
    this.#set(0).then(
      () => {
        this.#mayHold = false;
      },
      () => undefined,
    );
  }

  /** On a new connection: the node may have forgotten, as by a restart, and grants nobody more before each has said what it holds. */
  declare(): void {
    // What is being asked is asked again, and says it.
    if (this.#asking === null) this.#set(Math.max(0, this.spare)).catch(() => undefined);
  }

  /** Of several at a time all but the first wait for its answer. */
  #ask(bytes: number): Promise<void> {
    return this.#alone(async () => {
      const owed = this.#owed.bytes;
      const settled = this.#owed.settledBytes;
      const needed = owed + bytes;
      this.#mayHold = true;
      const wanted = needed + Math.max(0, this.spare) + PORTION_BYTES;
      const { granted, overQuota } = await this.#call(wanted, needed);
      this.#grantedUntil = Math.max(this.#grantedUntil, granted + settled);
      this.#lastSpare = Math.max(0, this.spare);
      this.#refusal = granted >= needed ? null : refusal(overQuota);
      if (this.#refusal !== null) this.refusals++;
    });
  }

  /** Holds `spare` bytes beyond what is owed from here on, or fewer. */
  #set(spare: number): Promise<void> {
    return this.#alone(async () => {
      const owed = this.#owed.bytes;
      const settled = this.#owed.settledBytes;
      this.#grantedUntil = owed + settled + spare;
      this.#lastSpare = spare;
      const { granted } = await this.#call(owed + spare, owed);
      this.#grantedUntil = Math.min(this.#grantedUntil, granted + settled);
    });
  }

  async #alone(work: () => Promise<void>): Promise<void> {
    while (this.#asking !== null) await this.#asking;
    const asking = work().finally(() => {
      this.#asking = null;
    });
    this.#asking = asking.catch(() => undefined);
    await asking;
  }

  async #call(bytes: number, needed: number): Promise<{ granted: number; overQuota: boolean }> {
    try {
      return (await this.#calls.call("credit", { bytes, needed })).answer;
    } catch (error) {
      throw toFsError(error, "asking for room");
    }
  }
}

function refusal(overQuota: boolean): FsError {
  return overQuota ? new FsError("EDQUOT", "the tenant has as much as it may") : new FsError("ENOSPC", "the storage node is full");
}
