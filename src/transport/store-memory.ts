/**
 * What a client was answered about the data that it works with, and whether a node that says hello still has it: a data folder that was
 * replaced by a backup, or by another one, must not be taken for the one that went on.
 */
import type { NamespaceState, OpName, RequestOf, StoreState } from "../protocol/messages.ts";

/** As it is kept on disk beside a client's cache (cache/pool/known-store.ts). Byte strings in hexadecimal. */
export interface KnownStore {
  readonly instance: string;
  readonly startId: string;
  readonly start: number;
  /** By namespace, the sequence number of the newest delta that this client knows to be durable. */
  readonly durable: Readonly<Record<string, number>>;
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
  /** By namespace: the newest delta that was answered, and the newest durable one. */
  readonly #known = new Map<string, { seq: number; durableSeq: number }>();

  constructor(known: KnownStore | null) {
    if (known === null) return;
    this.#instance = known.instance;
    this.#start = known.start;
    this.#startId = Uint8Array.fromHex(known.startId);
    for (const [name, durableSeq] of Object.entries(known.durable)) this.#known.set(name, { seq: durableSeq, durableSeq });
  }

  /** What hello is to name; empty: no node has answered yet. */
  get startId(): Uint8Array {
    return this.#startId;
  }

  /** null: no node has answered yet. */
  toKnown(): KnownStore | null {
    if (this.#instance === null) return null;
    const durable = [...this.#known].filter(([, { durableSeq }]) => durableSeq > 0).map(([name, { durableSeq }]) => [name, durableSeq]);
    return { instance: this.#instance, start: this.#start, startId: this.#startId.toHex(), durable: Object.fromEntries(durable) };
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
      if (known !== undefined) known.seq = recoveredSeq;
    }
    return { kind: "same", lost };
  }

  /** Takes note of an answer to a commit or a sync. */
  answered(op: OpName, request: RequestOf<OpName>, answer: object): void {
    if (op !== "commit" && op !== "sync") return;
    const { seq } = answer as { seq?: number };
    if (seq === undefined) return;
    const { ns } = request as { ns: string };
    const isDurable = op === "sync" || (request as RequestOf<"commit">).delta.durable;
    let known = this.#known.get(ns);
    if (known === undefined) {
      known = { seq: 0, durableSeq: 0 };
      this.#known.set(ns, known);
    }
    if (seq > known.seq) known.seq = seq;
    if (isDurable && seq > known.durableSeq) known.durableSeq = seq;
  }
}
