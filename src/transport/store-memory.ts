/**
 * What a client was answered about the data that it works with, and whether a node that says hello still has it: a data folder that was
 * replaced by a backup, or by another one, must not be taken for the one that went on.
 */
import { HELLO_NAMESPACES_MAX } from "../protocol/limits.ts";
import type { AnswerOf, InodeBundle, NamespaceState, OpName, RequestOf, StoredRecord, StoreState } from "../protocol/messages.ts";

/** As it is kept on disk beside a client's cache (cache/pool/known-store.ts). Byte strings in hexadecimal. */
export interface KnownStore {
  readonly instance: string;
  readonly startId: string;
  readonly start: number;
  /** By namespace, the sequence number of the newest delta that this client knows to be durable. */
  readonly durable: Readonly<Record<string, number>>;
  /** By namespace, which one of its name it is. */
  readonly ids: Readonly<Record<string, string>>;
}

/** What is known of a namespace. */
interface KnownNamespace {
  /** In hexadecimal; null: not known yet. */
  id: string | null;
  /** Of the newest delta that was answered, or that wrote a record which was. */
  seq: number;
  durableSeq: number;
}

/** What becomes of a node that has said hello. */
export type StoreVerdict =
  /** It is the one, or the first. `lost`: namespaces of which it has lost what was never promised to survive, and how far it still is. */
  | { readonly kind: "same"; readonly lost: readonly NamespaceState[] }
  /** It must not be used. */
  | { readonly kind: "other" | "went-back"; readonly why: string };

const REMEDY = "unmount, and mount again";

export class StoreMemory {
  #instance: string | null = null;
  #start = 0;
  #startId = new Uint8Array(0);
  readonly #known = new Map<string, KnownNamespace>();

  constructor(known: KnownStore | null) {
    if (known === null) return;
    this.#instance = known.instance;
    this.#start = known.start;
    this.#startId = Uint8Array.fromHex(known.startId);
    for (const [name, durableSeq] of Object.entries(known.durable)) {
      this.#known.set(name, { id: known.ids[name] ?? null, seq: durableSeq, durableSeq });
    }
  }

  /** What hello is to name; empty: no node has answered yet. */
  get startId(): Uint8Array {
    return this.#startId;
  }

  /** Those that hello is to ask about. */
  get namespaces(): string[] {
    return [...this.#known.keys()].slice(0, HELLO_NAMESPACES_MAX);
  }

  /** null: no node has answered yet. */
  toKnown(): KnownStore | null {
    if (this.#instance === null) return null;
    const durable = [...this.#known].filter(([, { durableSeq }]) => durableSeq > 0).map(([name, { durableSeq }]) => [name, durableSeq]);
    const ids = [...this.#known].flatMap(([name, { id }]) => (id === null ? [] : [[name, id]]));
    return {
      instance: this.#instance,
      start: this.#start,
      startId: this.#startId.toHex(),
      durable: Object.fromEntries(durable),
      ids: Object.fromEntries(ids),
    };
  }

  /** Looks at what a node says of its data, and takes it over when that is the data that this client knows. */
  meet(store: StoreState): StoreVerdict {
    const instance = store.instance.toHex();
    if (this.#instance !== null && instance !== this.#instance) {
      const why = `it has the data ${instance.slice(0, 8)}, and this client works with ${this.#instance.slice(0, 8)}: another storage node, or one that was started with --restored`;
      return { kind: "other", why: `${why}; ${REMEDY}` };
    }
    if (!store.knowsLastStart) {
      const why = "its data has gone back to a time before this client worked with it, as by a restored backup";
      return { kind: "went-back", why: `${why}; bring the newer data back, or start the node with --restored, and then ${REMEDY}` };
    }
    const lost: NamespaceState[] = [];
    for (const namespace of store.namespaces) {
      const known = this.#known.get(namespace.name);
      if (known === undefined) continue;
      if (known.id !== null && known.id !== namespace.id.toHex()) {
        // Deleted, and made again under the same name: of what was known, nothing is there any more.
        lost.push({ ...namespace, recoveredSeq: 0 });
        continue;
      }
      if (namespace.seq < known.durableSeq) {
        const why = `namespace ${namespace.name} is at delta ${namespace.seq}, and delta ${known.durableSeq} was said to be durable: its disk has lost data, or an older copy was restored`;
        return { kind: "went-back", why: `${why}; bring the newer data back, or start the node with --restored, and then ${REMEDY}` };
      }
      if (namespace.recoveredSeq < known.seq) lost.push({ ...namespace, recoveredSeq: Math.max(namespace.recoveredSeq, known.durableSeq) });
    }
    this.#instance = instance;
    this.#start = store.start;
    this.#startId = store.startId.slice();
    for (const { name, recoveredSeq } of lost) {
      const known = this.#known.get(name);
      if (known === undefined) continue;
      known.seq = recoveredSeq;
      known.durableSeq = Math.min(known.durableSeq, recoveredSeq);
    }
    for (const namespace of store.namespaces) this.#learn(namespace);
    return { kind: "same", lost };
  }

  #of(name: string): KnownNamespace {
    let known = this.#known.get(name);
    if (known === undefined) {
      known = { id: null, seq: 0, durableSeq: 0 };
      this.#known.set(name, known);
    }
    return known;
  }

  /** What a node says is durable must still be there later. */
  #learn({ name, id, durableSeq }: NamespaceState): void {
    const known = this.#of(name);
    known.id = id.toHex();
    known.durableSeq = Math.max(known.durableSeq, durableSeq);
    known.seq = Math.max(known.seq, durableSeq);
  }

  /** Takes note of an answer: of what was committed or synced, and of how new what was read is. */
  answered<O extends OpName>(op: O, request: RequestOf<O>, answer: AnswerOf<O>): void {
    if (op === "namespaceState") {
      this.#learn((answer as AnswerOf<"namespaceState">).state);
      return;
    }
    const seq = newestDelta(op, answer);
    if (seq === 0) return;
    const known = this.#of((request as RequestOf<"sync">).ns);
    if (seq > known.seq) known.seq = seq;
    const isDurable = op === "sync" || (op === "commit" && (request as RequestOf<"commit">).delta.durable);
    if (isDurable && seq > known.durableSeq) known.durableSeq = seq;
  }
}

/** The newest delta that an answer tells of; 0: none. */
function newestDelta<O extends OpName>(op: O, answer: AnswerOf<O>): number {
  switch (op) {
    case "commit": {
      const result = answer as AnswerOf<"commit">;
      return result.ok ? result.seq : 0;
    }
    case "sync":
      return (answer as AnswerOf<"sync">).seq;
    case "inode":
      return newestOf((answer as AnswerOf<"inode">).inode);
    case "lookup": {
      const { dentry, inode } = answer as AnswerOf<"lookup">;
      return Math.max(dentry?.version ?? 0, newestOf(inode));
    }
    case "list":
      return newest((answer as AnswerOf<"list">).entries, ({ dentry, inode }) => Math.max(dentry.version, newestOf(inode)));
    case "get":
      return newest((answer as AnswerOf<"get">).records, (record: StoredRecord | null) => record?.version ?? 0);
    case "range":
      return newest((answer as AnswerOf<"range">).records, ({ record }) => record.version);
    default:
      return 0;
  }
}

function newestOf(inode: InodeBundle | null): number {
  return Math.max(inode?.attr?.version ?? 0, inode?.region0?.version ?? 0);
}

function newest<T>(items: readonly T[], version: (item: T) => number): number {
  let max = 0;
  for (const item of items) max = Math.max(max, version(item));
  return max;
}
