/** Asks now and then whether the tenant's keys still exist. That they don't is the node's answer to anything: NodeClient.onRevoked. */

export interface AskedNode {
  readonly connected: boolean;
  call(op: "keyList", request: Record<string, never>, options: { timeoutMs: number }): Promise<unknown>;
}

export class KeyHealth implements Disposable {
  readonly #timer: ReturnType<typeof setInterval>;
  #asking = false;

  constructor(node: AskedNode, intervalMs: number) {
    this.#timer = setInterval(() => {
      if (this.#asking || !node.connected) return;
      this.#asking = true;
      node
        .call("keyList", {}, { timeoutMs: intervalMs })
        .catch(() => {})
        .finally(() => {
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
