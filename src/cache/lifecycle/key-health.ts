/** Asks now and then whether the tenant's keys still exist. */
import { NodeError } from "../../protocol/errors.ts";

export interface AskedNode {
  call(op: "keyList", request: Record<string, never>, options: { timeoutMs: number }): Promise<unknown>;
}

export class KeyHealth implements Disposable {
  readonly #timer: ReturnType<typeof setInterval>;
  #asking = false;

  /** `onRevoked`: the node has said that they were destroyed. It may be called more than once. */
  constructor(node: AskedNode, intervalMs: number, onRevoked: () => void) {
    const ask = async (): Promise<void> => {
      try {
        await node.call("keyList", {}, { timeoutMs: intervalMs });
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
