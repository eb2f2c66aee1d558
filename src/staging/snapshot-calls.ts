/**
 * The node as a mount with staged datasets sees it: what is staged is answered from the manifests, so that it stays as it was and needs no
 * node; all else is asked. The first change of this client takes what it changes out of the snapshot, before it is sent.
 */
import { ANSWER_TARGET_BYTES } from "../protocol/limits.ts";
import type { AnswerOf, Counters, Delta, InodeBundle, InodeWant, ListEntry, RequestOf } from "../protocol/messages.ts";
import { inodeOfKey } from "../protocol/record-keys.ts";
import type { ClientRequestOp } from "../transport/node-client-options.ts";
import type { AnyCalls } from "./any-calls.ts";
import { ManifestError } from "./manifest.ts";
import { NamespaceSnapshot } from "./snapshot.ts";

/** A node that restarts is back by then; after it, the folders above a dataset are shown as they were when it was staged. */
const UNREACHABLE_AFTER_MS = 2_000;
const LOOK_EVERY_MS = 200;
/** Counters that never belong to a whole listing: entries are missing. */
const NEVER_COMPLETE_BUMPS = -1;
const NO_COUNTERS: Counters = { links: 0, entries: 0, mtimeSec: 0, mtimeNsec: 0, bumps: 0 };
const NO_BODY = new Uint8Array();
const DENTRY_PREFIX_BYTES = 9;

type Answered = { [O in ClientRequestOp]?: (request: RequestOf<O>) => Promise<AnswerOf<O>> | null };

export interface SnapshotHooks {
  /** What this client knows of these inodes is not what the next answer says: it left the snapshot, or came into it. */
  onChange(namespace: string, inos: readonly number[]): void;
  /** A manifest can't be read: what was in its dataset is asked of the node from now on. */
  onFault(error: ManifestError): void;
}

export class SnapshotCalls implements AnyCalls {
  readonly #node: AnyCalls;
  readonly #hooks: SnapshotHooks;
  readonly #snapshots = new Map<string, NamespaceSnapshot>();
  /** Changes under way: what is staged meanwhile may be older than they are. */
  readonly #commits = new Set<{ ns: string; inos: readonly number[] }>();
  readonly #watchers = new Set<(ns: string, inos: readonly number[]) => void>();
  #lostAtMs: number | null = null;
  #everConnected = false;

  constructor(node: AnyCalls, hooks: SnapshotHooks) {
    this.#node = node;
    this.#hooks = hooks;
    this.#everConnected = node.connected;
  }

  get leaseValidUntilMs(): number {
    return this.#node.leaseValidUntilMs;
  }

  get connected(): boolean {
    return this.#node.connected;
  }

  /** The datasets of a namespace. */
  snapshot(namespace: string): NamespaceSnapshot {
    let snapshot = this.#snapshots.get(namespace);
    if (snapshot === undefined) {
      snapshot = new NamespaceSnapshot();
      this.#snapshots.set(namespace, snapshot);
    }
    return snapshot;
  }

  /** Inodes come into the snapshot or leave it. */
  changed(namespace: string, inos: readonly number[]): void {
    if (inos.length > 0) this.#hooks.onChange(namespace, inos);
  }

  giveUp(namespace: string, ino: number): void {
    this.#leave(namespace, this.snapshot(namespace), [ino]);
  }

  mistrust(what: string): void {
    this.#node.mistrust?.(what);
  }

  isStaged(namespace: string, ino: number): boolean {
    return this.#snapshots.get(namespace)?.has(ino) ?? false;
  }

  /** Calls `touched` for what this client is changing now, and for all that it changes until the returned function is called. */
  watchCommits(touched: (namespace: string, inos: readonly number[]) => void): () => void {
    for (const { ns, inos } of this.#commits) touched(ns, inos);
    this.#watchers.add(touched);
    return () => this.#watchers.delete(touched);
  }

  call<O extends ClientRequestOp>(op: O, request: RequestOf<O>): Promise<{ answer: AnswerOf<O>; body: Uint8Array }> {
    const answered = this.#answer(op, request);
    if (answered === null) return this.#node.call(op, request);
    return answered.then(
      (answer) => ({ answer, body: NO_BODY }),
      (error) => {
        if (!(error instanceof ManifestError)) throw error;
        this.fail(error);
        return this.call(op, request);
      },
    );
  }

  #answer<O extends ClientRequestOp>(op: O, request: RequestOf<O>): Promise<AnswerOf<O>> | null {
    const handler = this.#answered[op];
    try {
      return handler === undefined ? null : handler(request);
    } catch (error) {
      if (!(error instanceof ManifestError)) throw error;
      this.fail(error);
      return this.#answer(op, request);
    }
  }

  /** A dataset whose manifest is damaged is no snapshot any more. */
  fail(error: ManifestError): void {
    const { namespace } = error.manifest.name;
    const inos = this.snapshot(namespace).remove(error.manifest);
    if (inos.length > 0) this.#hooks.onFault(error);
    this.changed(namespace, inos);
  }

  async #ask<O extends ClientRequestOp>(op: O, request: RequestOf<O>): Promise<AnswerOf<O>> {
    return (await this.#node.call(op, request)).answer;
  }

  /** null: nothing is staged there, the node is asked. */
  #of(namespace: string): NamespaceSnapshot | null {
    const snapshot = this.#snapshots.get(namespace);
    return snapshot === undefined || snapshot.isEmpty ? null : snapshot;
  }

  readonly #answered: Answered = {
    inode: (request) => {
      const snapshot = this.#of(request.ns);
      if (snapshot === null) return null;
      const { ino, want } = request;
      const inode = snapshot.bundle(ino, want.region0MaxBytes);
      if (inode !== null) return Promise.resolve({ inode });
      if (!snapshot.isAbove(ino)) return null;
      return this.#orOffline(this.#ask("inode", request), 0, () => {
        const above = snapshot.offlineBundle(ino, want.region0MaxBytes);
        return above === null ? null : { inode: above };
      });
    },
    lookup: (request) => {
      const snapshot = this.#of(request.ns);
      return snapshot === null ? null : this.#lookup(snapshot, request);
    },
    list: (request) => {
      const snapshot = this.#of(request.ns);
      return snapshot === null ? null : this.#list(snapshot, request);
    },
    get: (request) => {
      const snapshot = this.#of(request.ns);
      return snapshot === null ? null : this.#get(snapshot, request);
    },
    range: (request) => {
      const { ns, from, to, limit } = request;
      const manifest = this.#of(ns)?.find(inodeOfKey(from))?.manifest;
      // All ranges that the filesystem asks for lie within one inode.
      if (manifest === undefined || to.length === 0) return null;
      return Promise.resolve(manifest.range(from, to, limit, ANSWER_TARGET_BYTES));
    },
    commit: ({ ns, delta }) => this.#commit(ns, delta),
    leaseRelease: (request) => {
      const snapshot = this.#of(request.ns);
      if (snapshot === null) return null;
      const inos = request.inos.filter((ino) => !snapshot.has(ino));
      return inos.length === 0 ? Promise.resolve({}) : this.#ask("leaseRelease", { ns: request.ns, inos });
    },
    namespaceList: (request) => {
      const staged = [...this.#snapshots].filter(([, snapshot]) => !snapshot.isEmpty).map(([name]) => name);
      return staged.length === 0 ? null : this.#orOffline(this.#ask("namespaceList", request), 0, () => ({ names: staged }));
    },
  };

  // ---- names ----

  async #lookup(snapshot: NamespaceSnapshot, request: RequestOf<"lookup">): Promise<AnswerOf<"lookup">> {
    const { ns, key, want } = request;
    const dir = inodeOfKey(key);
    const folder = snapshot.find(dir);
    if (folder !== undefined) {
      const dentry = folder.manifest.record(key);
      if (dentry === null) return { dentry, inode: null, parentLeased: true };
      return { dentry, inode: await this.#inode(ns, snapshot, dentry.link, want), parentLeased: true };
    }
    const asked = this.#ask("lookup", request);
    const dentry = snapshot.aboveEntry(dir, key.subarray(DENTRY_PREFIX_BYTES));
    const answer =
      dentry === null
        ? await asked
        : await this.#orOffline(asked, 0, () => ({
            dentry,
            inode: snapshot.offlineBundle(dentry.link, want.region0MaxBytes),
            parentLeased: false,
          }));
    const staged = answer.dentry === null ? null : snapshot.bundle(answer.dentry.link, want.region0MaxBytes);
    return staged === null ? answer : { ...answer, inode: staged };
  }

  async #inode(ns: string, snapshot: NamespaceSnapshot, ino: number, want: InodeWant): Promise<InodeBundle> {
    return snapshot.bundle(ino, want.region0MaxBytes) ?? (await this.#ask("inode", { ns, ino, want })).inode;
  }

  async #list(snapshot: NamespaceSnapshot, request: RequestOf<"list">): Promise<AnswerOf<"list">> {
    const { dir, after, limit } = request;
    const folder = snapshot.find(dir);
    if (folder !== undefined) {
      // A large folder is opened record by record: other requests come in between.
      await new Promise((resolve) => setImmediate(resolve));
      const { manifest } = folder;
      const { entries, more } = manifest.list(dir, after, limit, ANSWER_TARGET_BYTES);
      const filled = request.inodes ? await this.#fill(snapshot, entries, request) : { entries, cut: false };
      const counters = manifest.counters(dir) ?? NO_COUNTERS;
      return { entries: filled.entries, more: more || filled.cut, counters, dirLeased: true };
    }
    const asked = this.#ask("list", request);
    const answer = snapshot.isAbove(dir)
      ? await this.#orOffline(asked, UNREACHABLE_AFTER_MS, () => listAbove(snapshot, request))
      : await asked;
    if (!request.inodes) return answer;
    const entries = answer.entries.map((entry) => {
      const staged = snapshot.bundle(entry.dentry.link, request.want.region0MaxBytes);
      return staged === null ? entry : { ...entry, inode: staged };
    });
    return { ...answer, entries };
  }

  /** The entries with their inodes; fewer where these are large. */
  async #fill(
    snapshot: NamespaceSnapshot,
    entries: ListEntry[],
    { ns, want }: RequestOf<"list">,
  ): Promise<{ entries: ListEntry[]; cut: boolean }> {
    let bytes = 0;
    const asked: Promise<void>[] = [];
    const filled: ListEntry[] = [];
    for (const entry of entries) {
      if (bytes >= ANSWER_TARGET_BYTES) break;
      const inode = snapshot.bundle(entry.dentry.link, want.region0MaxBytes);
      const item = { ...entry, inode };
      filled.push(item);
      bytes += (inode?.attr?.value.length ?? 0) + (inode?.region0?.value.length ?? 0);
      if (inode !== null) continue;
      // This client has changed it: it is as the node has it. Without a node, the name is all that can be shown.
      if (!this.connected) continue;
      const asking = this.#ask("inode", { ns, ino: entry.dentry.link, want }).then(({ inode: current }) => {
        item.inode = current;
      });
      asked.push(asking);
    }
    await Promise.all(asked);
    return { entries: filled, cut: filled.length < entries.length };
  }

  // ---- records ----

  #get(snapshot: NamespaceSnapshot, { ns, keys }: RequestOf<"get">): Promise<AnswerOf<"get">> | null {
    const staged = keys.map((key) => snapshot.find(inodeOfKey(key)));
    if (staged.every((inode) => inode === undefined)) return null;
    const rest = keys.filter((_, i) => staged[i] === undefined);
    const merge = (fetched: AnswerOf<"get">["records"]): AnswerOf<"get"> => {
      let next = 0;
      return {
        records: keys.map((key, i) => staged[i]?.manifest.record(key) ?? (staged[i] === undefined ? (fetched[next++] ?? null) : null)),
      };
    };
    if (rest.length === 0) return Promise.resolve(merge([]));
    return this.#ask("get", { ns, keys: rest }).then(({ records }) => merge(records));
  }

  #commit(ns: string, delta: Delta): Promise<AnswerOf<"commit">> | null {
    const snapshot = this.#of(ns);
    const inos = [...touchedBy(delta)];
    for (const watcher of this.#watchers) watcher(ns, inos);
    if (snapshot !== null) this.#leave(ns, snapshot, inos);
    const commit = { ns, inos };
    this.#commits.add(commit);
    return this.#ask("commit", { ns, delta }).finally(() => this.#commits.delete(commit));
  }

  #leave(ns: string, snapshot: NamespaceSnapshot, inos: readonly number[]): void {
    for (const ino of inos) {
      try {
        this.changed(ns, snapshot.leave([ino]));
      } catch (error) {
        if (!(error instanceof ManifestError)) throw error;
        // That it has left can't be written down: who takes the pool over would not know.
        this.fail(error);
        this.changed(ns, [ino]);
      }
    }
  }

  // ---- no node ----

  /** What the node says, or, once none could be reached for `patienceMs`, what `offline` has. */
  async #orOffline<T>(asked: Promise<T>, patienceMs: number, offline: () => T | null): Promise<T> {
    // When it is not waited for any more, nobody needs to know that it failed.
    asked.catch(() => undefined);
    for (;;) {
      const result = this.#isUnreachable(patienceMs) ? offline() : null;
      if (result !== null) return result;
      const first = await Promise.race([asked.then((answer) => ({ answer })), Bun.sleep(LOOK_EVERY_MS)]);
      if (first !== undefined) return first.answer;
    }
  }

  #isUnreachable(patienceMs: number): boolean {
    if (this.connected) {
      this.#everConnected = true;
      this.#lostAtMs = null;
      return false;
    }
    const nowMs = performance.now();
    this.#lostAtMs ??= nowMs;
    return !this.#everConnected || nowMs - this.#lostAtMs >= patienceMs;
  }
}

/** Of a folder above a dataset, the way to it; as pages of a listing that is never whole, so that nobody takes another name for absent. */
function listAbove(snapshot: NamespaceSnapshot, { dir, after, want }: RequestOf<"list">): AnswerOf<"list"> | null {
  const above = snapshot.aboveEntries(dir);
  if (above === null) return null;
  const counters = above.counters ?? NO_COUNTERS;
  const entries = above.entries
    .filter(({ hash }) => after.length === 0 || Buffer.compare(hash, after) > 0)
    .map((entry) => ({ ...entry, inode: snapshot.offlineBundle(entry.dentry.link, want.region0MaxBytes) }));
  if (entries.length > 0) return { entries, more: true, counters, dirLeased: false };
  return { entries, more: false, counters: { ...counters, bumps: NEVER_COMPLETE_BUMPS }, dirLeased: false };
}

/** Every inode and folder that a delta changes, or believes to be as it was. */
function touchedBy({ checks, puts, deletes, deletePrefixes, bumps }: Delta): Set<number> {
  const inos = new Set<number>();
  for (const check of checks) {
    if (check.kind === "bumps") inos.add(check.ino);
    else inos.add(inodeOfKey(check.kind === "empty" ? check.prefix : check.key));
  }
  for (const { key } of puts) inos.add(inodeOfKey(key));
  for (const key of deletes) inos.add(inodeOfKey(key));
  for (const prefix of deletePrefixes) inos.add(inodeOfKey(prefix));
  for (const { ino } of bumps) inos.add(ino);
  inos.delete(0);
  return inos;
}
