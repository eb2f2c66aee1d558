/**
 * The main thread's wait for two things at once: requests on the FUSE device, and whatever Bun's event loop waits for. Bun can't watch
 * a device, so the pump runs from setImmediate, and when there is nothing to do it blocks in poll(2) on both.
 */
import { readdirSync, readFileSync, readlinkSync } from "node:fs";
import { POLLIN } from "../../ffi/libc/constants.ts";
import { poll } from "../../ffi/libc/libc.ts";
import { MappedMemory } from "../../ffi/libc/memory.ts";
import { pollfd } from "../../ffi/libfuse3/layout.ts";

/** Requests handled before sockets, timers and promises get their turn. */
const BURST_REQUESTS = 64;
/**
 * Rounds without a request before blocking. One lets the promises of the last request run, which send what it needs from the node; each
 * further one costs a turn of the event loop, and with eight a rename took half as long again.
 */
const IDLE_ROUNDS = 1;
/**
 * How long poll(2) may block. Bun keeps timers out of its epoll set, so that this is also how late a timer can fire: short while
 * something happens, longer when the mount is idle (fifty wake-ups a second cost less than a hundredth of a core).
 */
const BUSY_WAIT_MS = 1;
const IDLE_WAIT_MS = 20;
/**
 * Before it blocks, the thread looks again and again for this long: the next request of the same program, or the node's answer, is then
 * met by a processor that is awake. A halted virtual core takes 25 us to wake, a create wakes one eight times. On two of them, with
 * node and client beside the program: 4,000 files created in 3.4 s without spinning, 2.2 with a quarter of these times, 2.0 with them;
 * `git add` of 4,500 files 9.4, 6.7 and 5.7 s.
 */
const SPIN_FOR_REQUEST_MS = 0.2;
const SPIN_FOR_ANSWER_MS = 0.6;
/** Spinning that finds nothing stops after about this many tries, and is tried again once in a while. */
const SPIN_CREDIT_MAX = 16;
const SPIN_RETRY_WAITS = 64;
/** Without Bun's epoll descriptor poll(2) can't see its events: then this is how late they can be. */
const BLIND_WAIT_MS = 1;
/** Nothing for this long counts as idle. */
const IDLE_AFTER_MS = 50;

/**
 * The epoll descriptor of this thread's event loop: the lowest one, as Bun makes it before anything else runs, and each Worker makes
 * one later. Returns null when /proc doesn't show one.
 */
function findEventLoopFd(): number | null {
  const candidates: number[] = [];
  try {
    for (const name of readdirSync("/proc/self/fd")) {
      const fd = Number(name);
      if (linkOf(fd) === "anon_inode:[eventpoll]" && watchesSomething(fd)) candidates.push(fd);
    }
  } catch {
    return null;
  }
  return candidates.length === 0 ? null : Math.min(...candidates);
}

function linkOf(fd: number): string {
  try {
    return readlinkSync(`/proc/self/fd/${fd}`);
  } catch {
    return "";
  }
}

function watchesSomething(fd: number): boolean {
  return /^tfd:/m.test(readFileSync(`/proc/self/fdinfo/${fd}`, "utf8"));
}

/** What the reactor drives. */
export interface RequestSource {
  readonly fd: number;
  /** Requests whose answer is a Promise that has not settled. */
  readonly inFlight: number;
  /** Reads and handles one request. Returns false when none is waiting. */
  handleOne(): boolean;
  /** True once there will be no more requests. */
  readonly ended: boolean;
}

/** Serves until the source has ended. Rejects with what `handleOne` throws. */
export function serve(source: RequestSource): Promise<void> {
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  const pollfds = new PollSet(source.fd, findEventLoopFd());
  let idleRounds = 0;
  let lastRequestAt = performance.now();
  /** Requests came since the last wait. */
  let active = true;

  const burst = (): boolean => {
    let handled = 0;
    while (handled < BURST_REQUESTS && source.handleOne()) handled++;
    return handled > 0;
  };

  const spins = new SpinCredit();
  /** Looks for a while without sleeping. Returns whether something is ready. */
  const spin = (now: number): boolean => {
    if (!spins.worthwhile()) return false;
    const until = now + (source.inFlight > 0 ? SPIN_FOR_ANSWER_MS : SPIN_FOR_REQUEST_MS);
    do {
      if (pollfds.wait(0)) return spins.record(true);
    } while (performance.now() < until);
    return spins.record(false);
  };

  const wait = (): void => {
    const now = performance.now();
    const wasActive = active;
    if (active) lastRequestAt = now;
    active = false;
    const idle = source.inFlight === 0 && now - lastRequestAt > IDLE_AFTER_MS;
    // After a timeout only timers can have become due, and they run in the one round before the next wait.
    const ready = (wasActive && spin(now)) || pollfds.wait(idle ? IDLE_WAIT_MS : BUSY_WAIT_MS);
    if (!ready) return;
    idleRounds = 0;
    active = true;
    // A request that has just come needs no turn of the event loop before it.
    burst();
  };

  const pump = (): void => {
    try {
      if (burst()) {
        active = true;
        idleRounds = 0;
      } else if (!source.ended && ++idleRounds > IDLE_ROUNDS) {
        wait();
      }
    } catch (error) {
      pollfds.close();
      reject(error);
      return;
    }
    if (source.ended) {
      pollfds.close();
      resolve();
    } else {
      setImmediate(pump);
    }
  };
  setImmediate(pump);
  return promise;
}

/** Whether spinning pays: on a busy machine, or for rare requests, it only burns the processor. */
class SpinCredit {
  #credit = SPIN_CREDIT_MAX;
  #skipped = 0;

  worthwhile(): boolean {
    if (this.#credit > 0) return true;
    this.#skipped = (this.#skipped + 1) % SPIN_RETRY_WAITS;
    return this.#skipped === 0;
  }

  /** Takes note of what a spin found, and returns it. */
  record(found: boolean): boolean {
    this.#credit = found ? Math.min(this.#credit + 2, SPIN_CREDIT_MAX) : Math.max(this.#credit - 1, 0);
    return found;
  }
}

class PollSet {
  readonly #memory: MappedMemory;
  readonly #count: number;
  readonly #blind: boolean;

  constructor(fuseFd: number, loopFd: number | null) {
    this.#memory = new MappedMemory(2 * pollfd.SIZE);
    this.#blind = loopFd === null;
    const fds = loopFd === null ? [fuseFd] : [fuseFd, loopFd];
    fds.forEach((fd, index) => {
      this.#memory.view.setInt32(index * pollfd.SIZE + pollfd.fd, fd, true);
      this.#memory.view.setInt16(index * pollfd.SIZE + pollfd.events, POLLIN, true);
    });
    this.#count = fds.length;
  }

  /** Blocks until something is ready or the time is over; a signal ends it too. Returns whether something is ready. */
  wait(timeoutMs: number): boolean {
    const ready = poll(this.#memory.address, this.#count, this.#blind ? Math.min(timeoutMs, BLIND_WAIT_MS) : timeoutMs);
    return ready !== 0;
  }

  close(): void {
    this.#memory.close();
  }
}
