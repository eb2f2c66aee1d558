/**
 * Bytes promised to the sessions of one tenant: what a client has accepted from programs, or will accept without asking again, and not yet put. They
 * count as used for everybody else, so that what a client has accepted finds room. They are in memory: a session ends with its credit, and after a
 * restart of the node each session that was there says first what it holds, before any is granted more.
 */

/** Bytes of one disk that are promised or on their way, of all tenants. */
export interface PromisedBytes {
  bytes: number;
}

export class SpaceCredits {
  readonly #disk: PromisedBytes;
  /** By session id, of those that have asked and not ended. */
  readonly #held = new Map<string, number>();
  /** Of all sessions. */
  bytes = 0;
  /** Sessions of the node's previous run that have not said yet what they hold. */
  readonly #awaited = new Set<string>();
  #allDeclared = Promise.withResolvers<void>();

  constructor(disk: PromisedBytes) {
    this.#disk = disk;
  }

  /** These sessions (hexadecimal ids) may hold credit of the node's previous run. They are waited for so long at most. */
  awaitDeclarations(ids: Iterable<string>, timeoutMs: number): void {
    for (const id of ids) this.#awaited.add(id);
    setTimeout(() => {
      this.#awaited.clear();
      this.#allDeclared.resolve();
    }, timeoutMs).unref();
  }

  #isDeclared(key: string): void {
    if (this.#awaited.delete(key) && this.#awaited.size === 0) this.#allDeclared.resolve();
  }

  /** What is to be waited for before this session may be granted more; null: nothing. */
  before(session: Uint8Array): Promise<void> | null {
    return this.#awaited.size === 0 || this.#awaited.has(session.toHex()) ? null : this.#allDeclared.promise;
  }

  of(session: Uint8Array): number {
    return this.#held.get(session.toHex()) ?? 0;
  }

  set(session: Uint8Array, bytes: number): void {
    const key = session.toHex();
    const change = bytes - (this.#held.get(key) ?? 0);
    this.#held.set(key, bytes);
    this.bytes += change;
    this.#disk.bytes += change;
    this.#isDeclared(key);
  }

  /** Takes up to `bytes` out of the session's credit; returns how many. They stay promised on the disk: its free bytes have not shrunk yet. */
  take(session: Uint8Array, bytes: number): number {
    const key = session.toHex();
    const held = this.#held.get(key) ?? 0;
    const taken = Math.min(held, bytes);
    if (taken > 0) this.#held.set(key, held - taken);
    this.bytes -= taken;
    return taken;
  }

  /** What was taken is not needed after all. */
  giveBack(session: Uint8Array, bytes: number): void {
    const key = session.toHex();
    const held = this.#held.get(key);
    if (held === undefined) {
      // It has ended meanwhile.
      this.#disk.bytes -= bytes;
      return;
    }
    this.#held.set(key, held + bytes);
    this.bytes += bytes;
  }

  end(session: Uint8Array): void {
    this.set(session, 0);
    this.#held.delete(session.toHex());
  }
}
