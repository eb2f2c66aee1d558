/** RMA between two endpoints of one process, by each provider that runs everywhere: libfabric's net and tcp over TCP, and shm. */
import { afterEach, expect, test } from "bun:test";
import { readdirSync } from "node:fs";
import type { MemoryRegion } from "../fabric-endpoint.ts";
import { MappedMemory } from "../libc/memory.ts";
import { Libfabric } from "./libfabric.ts";
import { fabricDevices, RdmEndpoint } from "./rdm-endpoint.ts";

const MIB = 1024 * 1024;
const PATIENCE_MS = 4_000;
const OPERATIONS = 32;
const PROVIDERS = ["net", "tcp;ofi_rxm", "shm"];

const lib = new Libfabric();
const opened: Disposable[] = [];
afterEach(() => {
  for (const one of opened.splice(0).reverse()) one[Symbol.dispose]();
});

/** Who starts transfers, and whose memory they go to. */
class Pair {
  readonly node: RdmEndpoint;
  readonly client: RdmEndpoint;
  readonly buffer: MemoryRegion & { memory: MappedMemory };
  readonly slots: MemoryRegion & { memory: MappedMemory };
  readonly peer: bigint;

  constructor(provider: string, bytes = 4 * MIB + 64) {
    const source = provider === "shm" ? null : "127.0.0.1";
    // Memory outlives the endpoints that know it.
    const memory = [new MappedMemory(bytes), new MappedMemory(bytes)] as const;
    opened.push(...memory);
    this.node = new RdmEndpoint(lib, { provider, source, operations: OPERATIONS });
    opened.push(this.node);
    this.client = new RdmEndpoint(lib, { provider, source, operations: OPERATIONS });
    opened.push(this.client);
    this.buffer = { ...this.node.register(memory[0], "local"), memory: memory[0] };
    this.slots = { ...this.client.register(memory[1], "remote"), memory: memory[1] };
    this.peer = this.node.insert(this.client.name).peer;
  }

  /** Runs operations of the node until all have ended. @returns their errors, by number */
  run(count: number, start: (operation: number) => boolean): Map<number, Error | null> {
    const ended = new Map<number, Error | null>();
    const onCompletion = (operation: number, error: Error | null) => void ended.set(operation, error);
    const deadline = performance.now() + PATIENCE_MS;
    const step = () => {
      this.node.poll(onCompletion);
      this.client.poll(() => undefined);
      if (performance.now() > deadline) throw new Error(`${ended.size} of ${count} operations have ended`);
    };
    for (let operation = 0; operation < count; operation++) while (!start(operation)) step();
    while (ended.size < count) step();
    return ended;
  }

  write(offset: number, length: number, at = offset, key = this.slots.key): Error | null {
    const { node, buffer, peer, slots } = this;
    return this.run(1, (op) => node.write(op, buffer, offset, length, peer, slots.base + BigInt(at), key)).get(0) ?? null;
  }

  read(offset: number, length: number, at = offset, key = this.slots.key): Error | null {
    const { node, buffer, peer, slots } = this;
    return this.run(1, (op) => node.read(op, buffer, offset, length, peer, slots.base + BigInt(at), key)).get(0) ?? null;
  }
}

function pattern(bytes: Uint8Array, seed: number): Uint8Array {
  for (let i = 0; i < bytes.length; i++) bytes[i] = (i * 31 + seed + (i >> 8)) & 0xff;
  return bytes;
}

for (const provider of PROVIDERS) {
  test(`${provider}: bytes go into and out of the peer's memory, of any size, aligned or not, and nothing beside them changes`, () => {
    const pair = new Pair(provider);
    const { buffer, slots } = pair;
    for (const [length, offset] of [
      [1, 0],
      [1, 4_095],
      [17, 3],
      [4_096, 0],
      [65_552, 13],
      [MIB, 7],
      [4 * MIB, 0],
      [4 * MIB, 64],
    ] as const) {
      pattern(buffer.memory.bytes, length);
      slots.memory.bytes.fill(0xee);
      expect(pair.write(offset, length)).toBeNull();
      const got = slots.memory.bytes;
      expect(Buffer.compare(got.subarray(offset, offset + length), buffer.memory.bytes.subarray(offset, offset + length))).toBe(0);
      expect(got.subarray(0, offset).every((byte) => byte === 0xee)).toBeTrue();
      expect(got.subarray(offset + length).every((byte) => byte === 0xee)).toBeTrue();
      pattern(slots.memory.bytes, length + 1);
      buffer.memory.bytes.fill(0);
      expect(pair.read(offset, length)).toBeNull();
      expect(Buffer.compare(got.subarray(offset, offset + length), buffer.memory.bytes.subarray(offset, offset + length))).toBe(0);
    }
  }, 60_000);

  test(`${provider}: many operations at a time, each with its own bytes`, () => {
    const pair = new Pair(provider);
    const { node, buffer, slots, peer } = pair;
    const part = 100_000;
    for (let op = 0; op < OPERATIONS; op++) buffer.memory.bytes.fill(op + 1, op * part, (op + 1) * part);
    const ended = pair.run(OPERATIONS, (op) => node.write(op, buffer, op * part, part, peer, slots.base + BigInt(op * part), slots.key));
    expect([...ended.values()].every((error) => error === null)).toBeTrue();
    const all = OPERATIONS * part;
    expect(Buffer.compare(slots.memory.bytes.subarray(0, all), buffer.memory.bytes.subarray(0, all))).toBe(0);
  }, 60_000);

  test(`${provider}: a wrong key or an address outside is an error, and changes nothing`, () => {
    for (const [at, wrongKey] of [
      [0, true],
      [5 * MIB, false],
    ] as const) {
      const pair = new Pair(provider);
      pattern(pair.buffer.memory.bytes, 1);
      pair.slots.memory.bytes.fill(0xee);
      const key = wrongKey ? pair.slots.key ^ 0x5555n : pair.slots.key;
      // shm's target ends what is wrong, and nobody tells who started it: that is what deadlines are for.
      if (provider === "shm") expect(() => pair.write(0, 65_536, at, key)).toThrow("0 of 1");
      else expect(pair.write(0, 65_536, at, key)).not.toBeNull();
      expect(pair.slots.memory.bytes.every((byte) => byte === 0xee)).toBeTrue();
    }
  }, 60_000);

  test(`${provider}: endpoints that come and go leave no descriptor`, () => {
    const descriptors = () => readdirSync("/proc/self/fd").length;
    const one = () => {
      const pair = new Pair(provider, 65_536);
      expect(pair.write(0, 1_000)).toBeNull();
      for (const each of opened.splice(0).reverse()) each[Symbol.dispose]();
    };
    one();
    const before = descriptors();
    for (let i = 0; i < 50; i++) one();
    expect(descriptors()).toBeLessThanOrEqual(before + 1);
  }, 120_000);
}

test("a provider that is not there: no devices, and an error that names it", () => {
  expect(fabricDevices(lib, "no_such_provider")).toEqual([]);
  expect(() => new RdmEndpoint(lib, { provider: "no_such_provider", source: null, operations: 1 })).toThrow("no_such_provider");
  expect(fabricDevices(lib, "net", "127.0.0.1").length).toBeGreaterThan(0);
});

test("without the library: an error, nothing else", () => {
  expect(() => new Libfabric("libfabric-that-is-not-there.so.1")).toThrow();
});

test("loading it takes no signal from the process: SIGTERM is still ours", async () => {
  const program = `
    const { Libfabric } = await import(${JSON.stringify(`${import.meta.dir}/libfabric.ts`)});
    const { fabricDevices } = await import(${JSON.stringify(`${import.meta.dir}/rdm-endpoint.ts`)});
    process.on("SIGTERM", () => process.exit(42));
    fabricDevices(new Libfabric(), "net", "127.0.0.1");
    process.kill(process.pid, "SIGTERM");
    setTimeout(() => process.exit(1), 5_000);
  `;
  expect(await Bun.spawn([process.execPath, "-e", program], { stdout: "ignore", stderr: "inherit" }).exited).toBe(42);
});

test.each(["net", "tcp;ofi_rxm"])(
  "%s: what is no address of a peer is refused, or leads nowhere, and harms nothing",
  (provider) => {
    const pair = new Pair(provider);
    const { node, buffer } = pair;
    const free = Array.from({ length: OPERATIONS }, (_, i) => i);
    const ended: (Error | null)[] = [];
    const onCompletion = (operation: number, error: Error | null) => {
      free.push(operation);
      ended.push(error);
    };
    for (let i = 0; i < 1_000; i++) {
      const name = crypto.getRandomValues(new Uint8Array(1 + (i % 60)));
      if (i % 3 === 0) name.set(node.name.subarray(0, Math.min(4, name.length)));
      if (i % 3 === 1) name.set(new Uint8Array([2, 0, 0, i & 255, 127, 0, 0, 1]).subarray(0, name.length));
      try {
        const { peer } = node.insert(name);
        const operation = free.pop();
        if (operation !== undefined && !node.write(operation, buffer, 0, 1_000, peer, 0n, 5n)) free.push(operation);
        node.poll(onCompletion);
        node.remove(peer);
      } catch {
        // Refused.
      }
      node.poll(onCompletion);
    }
    expect(ended.every((error) => error !== null)).toBeTrue();
    expect(pair.write(0, 10_000)).toBeNull();
  },
  60_000,
);
