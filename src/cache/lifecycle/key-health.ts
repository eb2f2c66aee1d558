/** Asks now and then whether the tenant's keys still exist, and whether there are new ones. */
import type { WrappedKey } from "../../crypto/key-ring.ts";
import { NodeError } from "../../protocol/errors.ts";

export interface AskedNode {
  call(op: "keyList", request: Record<string, never>, options: { timeoutMs: number }): Promise<{ answer: { keys: WrappedKey[] } }>;
}

export class KeyHealth implements Disposable {
  readonly #timer: ReturnType<typeof setInterval>;
  #asking = false;

  /** `onKeys`: these there are. `onRevoked`: the node has said that they were destroyed. It may be called more than once. */
  constructor(node: AskedNode, intervalMs: number, onKeys: (keys: readonly WrappedKey[]) => void, onRevoked: () => void) {
    const ask = async (): Promise<void> => {
      try {
        onKeys((await node.call("keyList", {}, { timeoutMs: intervalMs })).answer.keys);
      } catch (error) {
        if (error instanceof NodeError && error.code === "key_revoked") onRevoked();
      }
    };
    this.#timer = setInterval(() => {
      if (this.#asking) return;
      this.#asking = true;
      void ask().finally(() => {
        this.#asking = false;
      });
    }, intervalMs);
    this.#timer.unref();
  }

  stop(): void {
    clearInterval(this.#timer);
  }

  [Symbol.dispose](): void {
    this.stop();
  }
}
