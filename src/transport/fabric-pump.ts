/**
 * Keeps endpoints going while something is under way at them, in a thread that has an event loop besides: it asks them, and where there is nothing it
 * waits in poll(2) for the fabric's descriptors and the event loop's at once. Providers without a descriptor are asked again and again.
 */
import type { FabricEndpoint, OnCompletion } from "../../ffi/fabric-endpoint.ts";
import { POLLIN } from "../../ffi/libc/constants.ts";
import { poll } from "../../ffi/libc/libc.ts";
import { MappedMemory } from "../../ffi/libc/memory.ts";
import { pollfd } from "../../ffi/libfuse3/layout.ts";

/** The event loop's timers are not in its descriptor: this is how late they can be. */
const WAIT_MS = 2;
/** Endpoints that are busy at a time: one for each provider. */
const ENDPOINTS_MAX = 15;

export interface Pumped {
  readonly endpoint: Pick<FabricEndpoint, "poll" | "mayWait" | "waitFd">;
  readonly onCompletion: OnCompletion;
}

export class FabricPump {
  readonly #loopFd: number | null;
  readonly #busy: () => Iterable<Pumped>;
  readonly #afterPoll: () => void;
  readonly #pollfds = new MappedMemory((ENDPOINTS_MAX + 1) * pollfd.SIZE);
  #isTurning = false;

  /**
   * @param loopFd this thread's epoll descriptor; null: it is not known, and the pump does not wait
   * @param busy those that something is under way at; none: the pump stops until it is kicked
   * @param afterPoll called when they have been asked
   */
  constructor(loopFd: number | null, busy: () => Iterable<Pumped>, afterPoll: () => void = () => undefined) {
    this.#loopFd = loopFd;
    this.#busy = busy;
    this.#afterPoll = afterPoll;
  }

  /** Something is under way. */
  kick(): void {
    if (this.#isTurning) return;
    this.#isTurning = true;
    setImmediate(this.#turn);
  }

  readonly #turn = (): void => {
    this.#isTurning = false;
    const busy = [...this.#busy()].slice(0, ENDPOINTS_MAX);
    let ended = 0;
    for (const { endpoint, onCompletion } of busy) ended += endpoint.poll(onCompletion);
    this.#afterPoll();
    if (busy.length === 0) return;
    if (ended === 0) this.#wait(busy);
    this.kick();
  };

  #wait(busy: readonly Pumped[]): void {
    if (this.#loopFd === null) return;
    for (const { endpoint } of busy) if (endpoint.waitFd === null || !endpoint.mayWait()) return;
    const fds = [this.#loopFd, ...busy.map(({ endpoint }) => endpoint.waitFd as number)];
    for (const [i, fd] of fds.entries()) {
      this.#pollfds.view.setInt32(i * pollfd.SIZE + pollfd.fd, fd, true);
      this.#pollfds.view.setInt16(i * pollfd.SIZE + pollfd.events, POLLIN, true);
    }
    poll(this.#pollfds.address, fds.length, WAIT_MS);
  }

  close(): void {
    this.#pollfds.close();
  }
}
