/** The epoll descriptor of this thread's event loop, so that a thread can wait for it and for something else at once (poll(2)). */

import { readdirSync, readFileSync, readlinkSync } from "node:fs";
import type { TCPSocketListener } from "bun";

/**
 * Every thread with an event loop has one. Ours is the one that watches a socket which we have just made. null where /proc does not show it.
 * Before anything else makes descriptors of this kind: libraries have some, too.
 */
export function findEventLoopFd(): number | null {
  let listener: TCPSocketListener | null = null;
  try {
    listener = Bun.listen({ hostname: "127.0.0.1", port: 0, socket: { data: () => undefined } });
    // Bun has it; its types do not.
    const { fd } = listener as unknown as { fd: number };
    const watched = new RegExp(`^tfd:\\s+${fd}\\b`, "m");
    for (const name of readdirSync("/proc/self/fd")) {
      if (linkOf(name) === "anon_inode:[eventpoll]" && watched.test(readFileSync(`/proc/self/fdinfo/${name}`, "utf8"))) return Number(name);
    }
  } catch {
    // No loopback interface, no /proc, or descriptors that came and went in other threads.
  } finally {
    listener?.stop(true);
  }
  return null;
}

function linkOf(fd: string): string {
  try {
    return readlinkSync(`/proc/self/fd/${fd}`);
  } catch {
    return "";
  }
}
