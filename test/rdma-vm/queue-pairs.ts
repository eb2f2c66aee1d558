/**
 * Runs inside the machine, from one bundle: queue pairs of ibverbs between an initiator and targets of one process, over the RDMA device there is.
 * Says "PASS what" for each thing that was seen; ends with a status other than 0 at the first that was not.
 * With the argument "memlock": as a user who may pin 64 KiB.
 */
import { readdirSync, readFileSync } from "node:fs";
import { Ibverbs } from "../../ffi/ibverbs/ibverbs.ts";
import { rdmaPorts } from "../../ffi/ibverbs/ports.ts";
import { RcEndpoint } from "../../ffi/ibverbs/rc-endpoint.ts";
import { POLLIN } from "../../ffi/libc/constants.ts";
import { poll } from "../../ffi/libc/libc.ts";
import { MappedMemory } from "../../ffi/libc/memory.ts";
import { pollfd } from "../../ffi/libfuse3/layout.ts";

const MIB = 1024 * 1024;
const OPERATIONS = 32;
const PEERS = 1_000;
const PATIENCE_MS = 60_000;
const POLL_MS = 1_000;
const MEMLOCK_USER = 1_000;
/** No file and no test has them: what must not be written keeps it. */
const UNTOUCHED = 0xee;

function check(isTrue: boolean, what: string): void {
  if (!isTrue) throw new Error(what);
}

const isMemlock = process.argv.includes("memlock");
// Before the device is opened: afterwards the kernel refuses its requests.
if (isMemlock) process.setuid?.(MEMLOCK_USER);
const lib = new Ibverbs();
const [port] = rdmaPorts(null);
if (port === undefined) throw new Error("no port");
const open = (role: "initiator" | "target") => new RcEndpoint(lib, { port, role, operations: OPERATIONS });

class Pair {
  readonly node: RcEndpoint;
  readonly client = open("target");
  readonly memory: MappedMemory;
  readonly slots;
  readonly peer: bigint;

  constructor(node: RcEndpoint, bytes: number) {
    this.node = node;
    this.memory = new MappedMemory(bytes);
    this.slots = this.client.register(this.memory, "remote");
    const { peer, name } = node.insert(this.client.name);
    this.client.accept(name);
    this.peer = peer;
  }

  close(): void {
    this.node.remove(this.peer);
    this.client.close();
    this.memory.close();
  }
}

const node = open("initiator");
const pollfds = new MappedMemory(pollfd.SIZE);

/** Waits as the Workers do: by the completion channel's descriptor. */
function ended(count: number): Map<number, Error | null> {
  const found = new Map<number, Error | null>();
  const deadline = performance.now() + PATIENCE_MS;
  while (found.size < count) {
    check(performance.now() < deadline, `${found.size} of ${count} operations have ended`);
    if (node.poll((operation, error) => void found.set(operation, error)) > 0 || !node.mayWait()) continue;
    pollfds.view.setInt32(pollfd.fd, node.waitFd ?? -1, true);
    pollfds.view.setInt16(pollfd.events, POLLIN, true);
    poll(pollfds.address, 1, POLL_MS);
  }
  return found;
}

const failures = (found: Map<number, Error | null>) => [...found.values()].flatMap((error) => (error === null ? [] : [error.message]));

function memlock(): void {
  const memory = new MappedMemory(4 * MIB);
  try {
    open("target").register(memory, "remote");
  } catch (error) {
    const { message } = error as Error;
    check(message.includes("4096 KiB have to be pinned") && message.includes("ulimit -l"), message);
    console.log("PASS memory that may not be pinned: an error that says how much, and by what limit");
    return;
  }
  throw new Error("4 MiB were pinned");
}

function all(): void {
  const bytes = 4 * MIB + 64;
  const buffers = new MappedMemory(bytes);
  const region = node.register(buffers, "local");
  crypto.getRandomValues(buffers.bytes.subarray(0, 65_536));
  for (let at = 65_536; at < bytes; at += 65_536) buffers.bytes.copy(buffers.bytes, at, at - 65_535, Math.min(at, bytes - 65_536) + 1);

  const pair = new Pair(node, bytes);
  const { slots, memory } = pair;
  for (const length of [1, 7, 8, 9, 4_095, 65_553, 1_000_003, 4 * MIB]) {
    for (const at of [0, 13]) {
      memory.bytes.fill(UNTOUCHED);
      check(node.write(0, region, at, length, pair.peer, slots.base + 21n, slots.key), "a write starts");
      check(failures(ended(1)).length === 0, `a write of ${length}`);
      check(
        Buffer.compare(memory.bytes.subarray(21, 21 + length), buffers.bytes.subarray(at, at + length)) === 0,
        `${length} bytes written`,
      );
      check(memory.bytes[20] === UNTOUCHED && memory.bytes[21 + length] === UNTOUCHED, "no byte beside them");
    }
  }
  console.log("PASS writes from 1 byte to 4 MiB, aligned or not");

  const into = new MappedMemory(bytes);
  const readInto = node.register(into, "local");
  for (const length of [1, 4_097, 1_000_003, 4 * MIB]) {
    memory.bytes.set(buffers.bytes);
    check(node.read(1, readInto, 5, length, pair.peer, slots.base + 3n, slots.key), "a read starts");
    check(failures(ended(1)).length === 0, `a read of ${length}`);
    check(Buffer.compare(into.bytes.subarray(5, 5 + length), memory.bytes.subarray(3, 3 + length)) === 0, `${length} bytes read`);
  }
  console.log("PASS reads from 1 byte to 4 MiB");

  const second = new Pair(node, bytes);
  let started = 0;
  memory.bytes.fill(0);
  second.memory.bytes.fill(0);
  for (let i = 0; i < OPERATIONS; i++) {
    const to = i % 2 === 0 ? pair : second;
    if (node.write(i, region, i * 65_536, 65_536, to.peer, to.slots.base + BigInt(i * 65_536), to.slots.key)) started++;
  }
  check(started === OPERATIONS, `${started} started`);
  check(!node.write(OPERATIONS, region, 0, 10, pair.peer, slots.base, slots.key), "a queue pair has room for 16");
  const many = ended(OPERATIONS);
  check(failures(many).length === 0, failures(many).join());
  for (let i = 0; i < OPERATIONS; i++) {
    const at = i * 65_536;
    const { memory: got } = i % 2 === 0 ? pair : second;
    check(Buffer.compare(got.bytes.subarray(at, at + 65_536), buffers.bytes.subarray(at, at + 65_536)) === 0, `operation ${i}`);
  }
  console.log("PASS many at a time to two peers, as many as there is room for");

  for (const [what, target] of [
    ["a wrong key", ({ slots: { base, key } }: Pair) => ({ base, key: key ^ 0x100n })],
    ["memory behind what is offered", ({ slots: { base, key } }: Pair) => ({ base: base + BigInt(bytes - 100), key })],
    ["another peer's memory", () => second.slots],
  ] as const) {
    const third = new Pair(node, bytes);
    third.memory.bytes.fill(UNTOUCHED);
    second.memory.bytes.fill(UNTOUCHED);
    const { base, key } = target(third);
    check(node.write(3, region, 0, 65_536, third.peer, base, key), "it starts");
    const errors = failures(ended(1));
    check(errors.length === 1 && errors[0]?.includes("remote access error") === true, `${what}: ${errors.join()}`);
    check(
      third.memory.bytes.every((byte) => byte === UNTOUCHED),
      "nothing is written",
    );
    check(
      second.memory.bytes.every((byte) => byte === UNTOUCHED),
      "nothing is written at the other",
    );
    let after: string[];
    try {
      check(node.write(4, region, 0, 10, third.peer, third.slots.base, third.slots.key), "a queue pair in error takes requests");
      after = failures(ended(1));
    } catch (error) {
      after = [(error as Error).message];
    }
    check(after.length === 1, "a queue pair in error does nothing more");
    third.close();
  }
  check(node.write(5, region, 0, 1_000, second.peer, second.slots.base, second.slots.key), "it starts");
  check(failures(ended(1)).length === 0, "others go on");
  console.log("PASS wrong keys and places are refused, nothing is written, and other peers go on");

  // One that is gone, and is forgotten while the device still tries to reach it. (The software device of Linux 6.1 goes on trying for ever.)
  const forgotten = new Pair(node, 65_536);
  forgotten.client.close();
  for (let i = 0; i < 4; i++)
    check(node.write(i, region, 0, 65_536, forgotten.peer, forgotten.slots.base, forgotten.slots.key), "it starts");
  forgotten.close();
  const flushed = failures(ended(4));
  check(flushed.length === 4 && flushed.every((text) => text.includes("Flushed")), `a peer that is forgotten: ${flushed.join()}`);
  check(node.write(7, region, 0, 1_000, pair.peer, slots.base, slots.key) && failures(ended(1)).length === 0, "others go on");
  console.log("PASS a peer that is gone and forgotten: what is under way ends, and others go on");

  for (const name of [new Uint8Array(), crypto.getRandomValues(new Uint8Array(36)), Uint8Array.of(1, 0, 3, 1, ...new Uint8Array(32))]) {
    let refused = false;
    try {
      node.insert(name);
    } catch {
      refused = true;
    }
    check(refused, `the name ${name} is refused`);
  }
  console.log("PASS names that are none are refused");

  const descriptors = () => readdirSync("/proc/self/fd").length;
  const pinned = () => /VmPin:\s*(\d+)/.exec(readFileSync("/proc/self/status", "utf8"))?.[1];
  new Pair(node, 65_536).close();
  const before = [descriptors(), pinned()].join();
  for (let i = 0; i < PEERS; i++) new Pair(node, 65_536).close();
  check([descriptors(), pinned()].join() === before, `descriptors and pinned KiB: ${before}, after: ${descriptors()},${pinned()}`);
  console.log("PASS 1,000 peers that come and go leave no descriptor and no pinned memory");
  second.close();
  pair.close();
  node.close();
  // Its memory is unmapped: what comes late must be refused, not written there.
  let refused = 0;
  for (const late of [
    () => node.write(0, region, 0, 8, pair.peer, slots.base, slots.key),
    () => node.read(0, region, 0, 8, pair.peer, slots.base, slots.key),
    () => node.poll(() => undefined),
  ]) {
    try {
      late();
    } catch {
      refused++;
    }
  }
  check(refused === 3, "a closed endpoint refuses");
  console.log("PASS a closed endpoint refuses what comes late");
}

if (isMemlock) memlock();
else all();
