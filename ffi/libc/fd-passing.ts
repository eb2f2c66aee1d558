/**
 * An open file sent from one process to another: SCM_RIGHTS over a Unix datagram socket (unix(7), cmsg(3)). What arrives is a descriptor of
 * the same open file description, with its locks; while it is on its way, the kernel keeps it open.
 *
 * On 64-bit Linux (x86_64 and aarch64; bits/socket.h), little-endian:
 *
 *     struct sockaddr_un { u16 family; char path[108]; }
 *     struct iovec       { u64 base; u64 len; }
 *     struct msghdr      { u64 name; u32 namelen; u32 pad; u64 iov; u64 iovlen; u64 control; u64 controllen; i32 flags; u32 pad; }
 *     struct cmsghdr     { u64 len; i32 level; i32 type; data... }     padded to 8 bytes
 */
import { dlopen, FFIType } from "bun:ffi";
import { AF_UNIX, EAGAIN, EINTR, SOCK_CLOEXEC, SOCK_NONBLOCK } from "./constants.ts";
import { LibcError } from "./errors.ts";
import { close, errno } from "./libc.ts";
import { MappedMemory } from "./memory.ts";

/** sys/socket.h */
const SOCK_DGRAM = 2;
const SOL_SOCKET = 1;
const SCM_RIGHTS = 1;
const MSG_CTRUNC = 0x8;
const MSG_DONTWAIT = 0x40;
const MSG_NOSIGNAL = 0x4000;
const MSG_CMSG_CLOEXEC = 0x40000000;

const SOCKADDR_BYTES = 110;
const SUN_PATH_BYTES = 108;
const MSGHDR_BYTES = 56;
const CMSG_HEADER_BYTES = 16;
/** CMSG_LEN and CMSG_SPACE of one int. */
const CMSG_BYTES = CMSG_HEADER_BYTES + 4;
const CMSG_SPACE_BYTES = CMSG_HEADER_BYTES + 8;

/** Where each part stands in the memory of one message. */
const IOVEC_AT = MSGHDR_BYTES;
const CONTROL_AT = IOVEC_AT + 16;
const BYTE_AT = CONTROL_AT + CMSG_SPACE_BYTES;
const ADDRESS_AT = BYTE_AT + 8;
const MESSAGE_BYTES = ADDRESS_AT + 112;

const library = dlopen("libc.so.6", {
  socket: { args: ["int", "int", "int"], returns: "int" },
  bind: { args: ["int", "ptr", "u32"], returns: "int" },
  sendmsg: { args: ["int", "ptr", "int"], returns: FFIType.i64_fast },
  recvmsg: { args: ["int", "ptr", "int"], returns: FFIType.i64_fast },
});
const libc = library.symbols;

function check(call: string, result: number): number {
  if (result < 0) throw new LibcError(call, errno());
  return result;
}

function newSocket(): number {
  return check("socket", libc.socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
}

/** struct sockaddr_un. @throws RangeError: longer than 107 bytes; /proc/self/fd/N/name is a way around that */
function writeAddress(bytes: Buffer, path: string): void {
  const length = Buffer.byteLength(path);
  if (length === 0 || length >= SUN_PATH_BYTES) throw new RangeError(`a socket's path of ${length} bytes: expected 1 to 107`);
  bytes.writeUInt16LE(AF_UNIX, 0);
  bytes.write(path, 2);
}

/** A message of one byte, with room for one descriptor beside it. */
function messageWithRoom(): MappedMemory {
  const memory = new MappedMemory(MESSAGE_BYTES);
  const pointer = (at: number, to: number) => memory.bytes.writeBigUInt64LE(BigInt(memory.at(to)), at);
  pointer(16, IOVEC_AT);
  memory.bytes.writeBigUInt64LE(1n, 24);
  pointer(32, CONTROL_AT);
  memory.bytes.writeBigUInt64LE(BigInt(CMSG_SPACE_BYTES), 40);
  pointer(IOVEC_AT, BYTE_AT);
  memory.bytes.writeBigUInt64LE(1n, IOVEC_AT + 8);
  return memory;
}

/** Sends a descriptor of the open file `fd` to the socket bound to `path`. @throws LibcError: ENOENT, ECONNREFUSED (nobody there) */
export function sendDescriptor(path: string, fd: number): void {
  const socket = newSocket();
  try {
    using memory = messageWithRoom();
    writeAddress(memory.bytes.subarray(ADDRESS_AT), path);
    memory.bytes.writeBigUInt64LE(BigInt(memory.at(ADDRESS_AT)), 0);
    memory.bytes.writeUInt32LE(SOCKADDR_BYTES, 8);
    memory.bytes.writeBigUInt64LE(BigInt(CMSG_BYTES), CONTROL_AT);
    memory.bytes.writeInt32LE(SOL_SOCKET, CONTROL_AT + 8);
    memory.bytes.writeInt32LE(SCM_RIGHTS, CONTROL_AT + 12);
    memory.bytes.writeInt32LE(fd, CONTROL_AT + CMSG_HEADER_BYTES);
    check("sendmsg", Number(libc.sendmsg(socket, memory.address, MSG_NOSIGNAL | MSG_DONTWAIT)));
  } finally {
    close(socket);
  }
}

/** A datagram socket at a path, at which descriptors arrive. */
export class DescriptorSocket implements Disposable {
  readonly #socket: number;
  #closed = false;

  /** Binds; the path must not exist, and is its maker's to unlink. @throws LibcError */
  constructor(path: string) {
    this.#socket = newSocket();
    try {
      const address = Buffer.alloc(SOCKADDR_BYTES);
      writeAddress(address, path);
      check("bind", libc.bind(this.#socket, address, SOCKADDR_BYTES));
    } catch (error) {
      this.close();
      throw error;
    }
  }

  /** A descriptor that has arrived, closed on exec, now the caller's; null: none yet. A message without one is dropped. @throws LibcError */
  receive(): number | null {
    for (;;) {
      using memory = messageWithRoom();
      if (Number(libc.recvmsg(this.#socket, memory.address, MSG_DONTWAIT | MSG_CMSG_CLOEXEC)) < 0) {
        const number = errno();
        if (number === EAGAIN) return null;
        if (number === EINTR) continue;
        throw new LibcError("recvmsg", number);
      }
      const fd = descriptorIn(memory.bytes);
      if (fd !== null) return fd;
    }
  }

  /** What has arrived and was not received is closed by the kernel. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    close(this.#socket);
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

function descriptorIn(message: Buffer): number | null {
  const truncated = (message.readInt32LE(48) & MSG_CTRUNC) !== 0;
  if (message.readBigUInt64LE(40) < BigInt(CMSG_BYTES)) return null;
  if (message.readInt32LE(CONTROL_AT + 8) !== SOL_SOCKET || message.readInt32LE(CONTROL_AT + 12) !== SCM_RIGHTS) return null;
  const fd = message.readInt32LE(CONTROL_AT + CMSG_HEADER_BYTES);
  if (!truncated && message.readBigUInt64LE(CONTROL_AT) === BigInt(CMSG_BYTES)) return fd;
  // Several came: none of them is what was asked for. The room of 24 bytes holds two.
  for (let at = CMSG_HEADER_BYTES; at + 4 <= Number(message.readBigUInt64LE(CONTROL_AT)); at += 4)
    close(message.readInt32LE(CONTROL_AT + at));
  return null;
}
