/** Keeps what a client knows of the storage node's data in its pool, for who takes the pool over. */
import { type KnownStoreFile, storeKnownStore } from "../cache/pool/known-store.ts";
import type { Logger } from "../log.ts";

/** An fsync may come every millisecond: so often is it written down at most. */
const WRITE_MS = 1_000;

/** Writes down what `known` returns, now and as it changes. Returns how to end that, with a last time. */
export function rememberStore(poolPath: string, known: () => KnownStoreFile | null, log: Logger): () => void {
  let written = "";
  const write = (): void => {
    const now = known();
    const text = JSON.stringify(now);
    if (now === null || text === written) return;
    try {
      storeKnownStore(poolPath, now);
      written = text;
    } catch (error) {
      log.debug({ err: error }, "what is known of the storage node could not be written to the pool");
    }
  };
  write();
  const timer = setInterval(write, WRITE_MS);
  timer.unref();
  return () => {
    clearInterval(timer);
    write();
  };
}
