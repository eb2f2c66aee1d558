/**
 * The Worker that makes the two system calls which may wait for the request loop: writing a notification to the FUSE device, and
 * unmounting. It opens no library: the main thread passes addresses of libc functions.
 */
import { CFunction, type Pointer } from "bun:ffi";
import { fuse_out_header } from "../../ffi/libfuse3/kernel.ts";

/** Main thread to Worker. */
export type NotifierRequest =
  | { kind: "start"; write: number; umount2: number; fd: number; shared: SharedArrayBuffer }
  /** Write each of the `count` notifications that lie one after the other in the shared memory. */
  | { kind: "notify"; count: number }
  | { kind: "unmount"; mountpoint: string; flags: number };

/** Worker to main thread, once for each request; "failed" stands for a Worker that is dead. */
export type NotifierAnswer = { kind: "ready" } | { kind: "notified" } | { kind: "unmounted"; ok: boolean } | { kind: "failed" };

declare const self: Worker & { onmessage: ((event: MessageEvent<NotifierRequest>) => void) | null };

type Write = (fd: number, bytes: Uint8Array, length: number) => number | bigint;
type Umount2 = (target: Uint8Array, flags: number) => number;

let writeCall: Write | null = null;
let umountCall: Umount2 | null = null;
let device = -1;
let memory: Uint8Array = new Uint8Array(0);

/** Errors are of no use: ENOENT says that the kernel had nothing cached, ENODEV that the mount is gone. */
function notify(count: number): void {
  const view = new DataView(memory.buffer);
  let at = 0;
  for (let i = 0; i < count; i++) {
    const length = view.getUint32(at + fuse_out_header.len, true);
    writeCall?.(device, memory.subarray(at, at + length), length);
    at += length;
  }
}

function handle(request: NotifierRequest): NotifierAnswer {
  switch (request.kind) {
    case "start":
      writeCall = CFunction({ ptr: request.write as Pointer, args: ["int", "ptr", "u64"], returns: "i64" }) as unknown as Write;
      umountCall = CFunction({ ptr: request.umount2 as Pointer, args: ["ptr", "int"], returns: "int" }) as unknown as Umount2;
      device = request.fd;
      memory = new Uint8Array(request.shared);
      return { kind: "ready" };
    case "notify":
      notify(request.count);
      return { kind: "notified" };
    case "unmount":
      return { kind: "unmounted", ok: umountCall?.(Buffer.from(`${request.mountpoint}\0`), request.flags) === 0 };
  }
}

self.onmessage = (event) => {
  self.postMessage(handle(event.data));
};
