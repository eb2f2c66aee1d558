/** The engine that the conformance tests run on, and short ways to say what they do to it. */
import { afterEach, beforeEach } from "bun:test";
import type { Bump, Delta, StoredRecord } from "../../protocol/messages.ts";
import type { CommitOutcome, MetadataEngine, Shard } from "./engine.ts";
import { makeDelta } from "./test-delta.ts";

/** Makes an engine over data that stays while `reopen` is called; `destroy` removes the data. */
export interface EngineFixture {
  open(): MetadataEngine;
  destroy(): void;
}

export const SESSION = new Uint8Array(16).fill(7);
export const MANY = 1_000;
export const ANY_BYTES = 1 << 20;

export function bytes(text: string): Uint8Array {
  return new TextEncoder().encode(text);
}
export function hashOf(n: number): Uint8Array {
  const hash = new Uint8Array(16);
  new DataView(hash.buffer).setUint32(0, n);
  return hash;
}
export function put(key: Uint8Array, value: string, link = 0, chunks: Uint8Array[] = []) {
  return { key, link, chunks, value: bytes(value) };
}
export function bump(ino: number, entries: number, mtimeSec = 0, mtimeNsec = 0, links = 0): Bump {
  return { ino, links, entries, mtimeSec, mtimeNsec };
}
export function textOf(record: StoredRecord | null | undefined): string | null {
  return record ? new TextDecoder().decode(record.value) : null;
}

/** The present test's engine, with the shard "default" of "tenant" open. */
export interface EngineUnderTest {
  readonly engine: MetadataEngine;
  readonly shard: Shard;
  /** The id that the next delta gets. */
  readonly nextId: number;
  /** Closes the engine and opens it again over the same data. */
  readonly reopen: () => Promise<void>;
  /** A delta that does nothing but what `parts` says. Takes an id. */
  readonly delta: (parts: Partial<Delta>) => Delta;
  readonly commit: (parts: Partial<Delta>) => Promise<CommitOutcome>;
  readonly read: (key: Uint8Array) => Promise<StoredRecord | null>;
}

/** To be called in a describe: each of its tests gets an engine of its own. */
export function engineUnderTest(makeFixture: () => EngineFixture): EngineUnderTest {
  let fixture: EngineFixture;
  let engine: MetadataEngine;
  let shard: Shard;
  let nextId: number;

  const open = async () => {
    engine = fixture.open();
    shard = await engine.open("tenant", "default");
  };
  beforeEach(async () => {
    fixture = makeFixture();
    await open();
    nextId = 1;
  });
  afterEach(async () => {
    await engine.close();
    fixture.destroy();
  });

  const delta = (parts: Partial<Delta>): Delta => makeDelta(nextId++, parts);
  return {
    get engine() {
      return engine;
    },
    get shard() {
      return shard;
    },
    get nextId() {
      return nextId;
    },
    reopen: async () => {
      await engine.close();
      await open();
    },
    delta,
    commit: (parts) => shard.commit({ session: SESSION, delta: delta(parts) }),
    read: async (key) => (await shard.get([key]))?.[0] ?? null,
  };
}
