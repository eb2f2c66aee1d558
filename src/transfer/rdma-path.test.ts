/** Bodies over a fabric between a real storage node and a real client, by each provider that runs everywhere. */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { createHash, randomBytes } from "node:crypto";
import { readdirSync } from "node:fs";
import { MappedMemory } from "../../ffi/libc/memory.ts";
import { Libfabric } from "../../ffi/libfabric/libfabric.ts";
import { RdmEndpoint } from "../../ffi/libfabric/rdm-endpoint.ts";
import { IntegrityError } from "../crypto/integrity-error.ts";
import { TestNode } from "../node/test-node.ts";
import { findEventLoopFd } from "../process/event-loop-fd.ts";
import { bodyMac } from "../protocol/body-mac.ts";
import { NodeError } from "../protocol/errors.ts";
import { fabricProvider } from "../protocol/fabric-providers.ts";
import { CHUNK_MAX_BYTES, SEALED_CHUNK_MAX_BYTES } from "../protocol/limits.ts";
import type { NodeClient } from "../transport/node-client.ts";
import type { CheckedSink } from "./chunk-node.ts";
import { probeFabric, RdmaPath, type RdmaSettings } from "./rdma-path.ts";
import { sumCounts, TransferCounts } from "./transfer-counts.ts";

setDefaultTimeout(120_000);

/** Where there is other hardware: libfabric's names of providers, with commas, and our address on it. */
const PROVIDERS = (process.env.KISEKI_TEST_FABRICS ?? "net,tcp;ofi_rxm").split(",");
const [ANY = ""] = PROVIDERS;
const ADDRESS = process.env.KISEKI_TEST_FABRIC_ADDRESS ?? "127.0.0.1";
const KIB = 1024;
const TIMEOUT_MS = 20_000;
const LOOP = findEventLoopFd();

/** A sink that keeps what it gets; `finish` may be told to find it wrong. */
class Kept implements CheckedSink {
  readonly length: number;
  readonly bytes: Buffer;
  at = 0;
  isWrong: boolean;

  constructor(length: number, isWrong = false) {
    this.length = length;
    this.bytes = Buffer.alloc(length);
    this.isWrong = isWrong;
  }
  begin(): void {
    this.at = 0;
  }
  write(bytes: Uint8Array): void {
    this.bytes.set(bytes, this.at);
    this.at += bytes.length;
  }
  finish(): void {
    if (this.isWrong) throw new IntegrityError("not what it should be");
  }
}

const idOf = (body: Uint8Array): Uint8Array => new Uint8Array(createHash("sha256").update(body).digest());

let node: TestNode;
beforeAll(async () => {
  node = await TestNode.start({ fabrics: PROVIDERS.map((name) => ({ name, source: ADDRESS })) });
});
afterAll(async () => {
  await node.stop();
});

async function openPath(
  provider: string,
  slots = 8,
): Promise<{ path: RdmaPath; client: NodeClient; said: string[]; counts: TransferCounts }> {
  const client = await node.client("acme");
  const said: string[] = [];
  const counts = new TransferCounts();
  const path = new RdmaPath(
    client,
    { candidates: [{ provider, source: ADDRESS, domain: "", rank: 0 }], slots },
    LOOP,
    (message) => said.push(message),
    counts,
  );
  expect(await path.tryOnce()).toBeNull();
  return { path, client, said, counts };
}

describe.each(PROVIDERS)("%s", (provider) => {
  test("what is put is what is got, whole and in parts, aligned or not", async () => {
    const { path, client, counts } = await openPath(provider);
    for (const length of [128 * KIB, 128 * KIB + 1, 1_000_003, CHUNK_MAX_BYTES, SEALED_CHUNK_MAX_BYTES]) {
      const body = randomBytes(length);
      const id = idOf(body);
      expect(await path.put(id, body, TIMEOUT_MS)).toBeTrue();
      // By TLS the same is there.
      const { body: byTls } = await client.call("chunkGet", { id, offset: 0, length });
      expect(Buffer.compare(byTls, body)).toBe(0);
      for (const [offset, count] of [
        [0, length],
        [length - 128 * KIB, 128 * KIB],
        [Math.min(13, length - 128 * KIB), 128 * KIB],
      ] as const) {
        const sink = new Kept(count);
        expect(await path.get(id, offset, sink, TIMEOUT_MS)).toBe(length);
        expect(sink.at).toBe(count);
        expect(Buffer.compare(sink.bytes, body.subarray(offset, offset + count))).toBe(0);
      }
    }
    expect(sumCounts([counts])).toMatchObject({ fabricTransfers: 20, fallbacks: 0, openPaths: 1 });
    await path.close();
  });

  test("many at a time; with more than there are slots the rest goes by TLS", async () => {
    const { path } = await openPath(provider, 4);
    const bodies = Array.from({ length: 12 }, (_, i) => randomBytes(300_000 + i));
    const puts = await Promise.all(bodies.map((body) => path.put(idOf(body), body, TIMEOUT_MS)));
    expect(puts.filter((went) => went).length).toBe(4);
    for (const [i, body] of bodies.entries()) if (!puts[i]) expect(await path.put(idOf(body), body, TIMEOUT_MS)).toBeTrue();
    const sinks = bodies.slice(0, 4).map((body) => new Kept(body.length));
    await Promise.all(sinks.map((sink, i) => path.get(idOf(bodies[i] as Buffer), 0, sink, TIMEOUT_MS)));
    for (const [i, sink] of sinks.entries()) expect(Buffer.compare(sink.bytes, bodies[i] as Buffer)).toBe(0);
    await path.close();
  });

  test("small bodies, and all while the path is closed, go by TLS", async () => {
    const { path } = await openPath(provider);
    expect(await path.put(idOf(Buffer.from("x")), randomBytes(1_000), TIMEOUT_MS)).toBeFalse();
    await path.close();
    expect(await path.put(idOf(Buffer.from("y")), randomBytes(1_000_000), TIMEOUT_MS)).toBeFalse();
    expect(await path.get(idOf(Buffer.from("y")), 0, new Kept(1_000_000), TIMEOUT_MS)).toBeNull();
  });

  test("a refusal of the node is the caller's, and the path goes on", async () => {
    const { path } = await openPath(provider);
    const missing = path.get(new Uint8Array(32), 0, new Kept(1_000_000), TIMEOUT_MS);
    await expect(missing).rejects.toMatchObject({ name: "NodeError", code: "not_found" });
    const body = randomBytes(200_000);
    expect(await path.put(idOf(body), body, TIMEOUT_MS)).toBeTrue();
    await path.close();
  });

  test("bytes that do not open are asked for by TLS, and the fabric is left alone for a while", async () => {
    const { path, said, counts } = await openPath(provider);
    const body = randomBytes(200_000);
    await path.put(idOf(body), body, TIMEOUT_MS);
    expect(await path.get(idOf(body), 0, new Kept(body.length, true), TIMEOUT_MS)).toBeNull();
    expect(path.isOpen).toBeFalse();
    expect(sumCounts([counts])).toMatchObject({ fallbacks: 1, openPaths: 0 });
    expect(said.at(-1)).toContain("bodies go by TLS for 1 s");
    // It is tried again by itself.
    const deadline = performance.now() + TIMEOUT_MS;
    while (!(await path.put(idOf(body), body, TIMEOUT_MS)) && performance.now() < deadline) await Bun.sleep(100);
    expect(path.isOpen).toBeTrue();
    await path.close();
  });

  test("paths that come and go leave no descriptor and no memory", async () => {
    const once = async () => {
      const { path, client } = await openPath(provider, 2);
      await path.close();
      await client.close();
    };
    const descriptors = () => readdirSync("/proc/self/fd").length;
    const mappings = () => readdirSync("/proc/self/map_files").length;
    // Where endpoints are closed late (settleMs), a tenth of a second passes for each.
    const count = (fabricProvider(provider)?.settleMs ?? 0) > 0 ? 30 : 1_000;
    for (let i = 0; i < 3; i++) await once();
    const before = [descriptors(), mappings()] as const;
    for (let i = 0; i < count; i++) await once();
    expect(descriptors() - before[0]).toBeLessThan(10);
    expect(mappings() - before[1]).toBeLessThan(30);
  });
});

describe("with several to choose from", () => {
  const MISSING = { provider: "net", source: "no-such-device", domain: "", rank: 0 };
  const all = PROVIDERS.map((provider, i) => ({ provider, source: ADDRESS, domain: "", rank: i + 1 }));

  async function until(went: () => Promise<boolean>): Promise<void> {
    const deadline = performance.now() + TIMEOUT_MS;
    while (!(await went()) && performance.now() < deadline) await Bun.sleep(20);
  }

  async function open(candidates: RdmaSettings["candidates"], betterAfterMs = 60_000) {
    const said: string[] = [];
    const path = new RdmaPath(await node.client("acme"), { candidates, slots: 2, betterAfterMs }, LOOP, (message) => said.push(message));
    return { path, said, problem: await path.tryOnce() };
  }

  test("the first that can be opened is taken", async () => {
    const { path, said, problem } = await open([MISSING, ...all]);
    expect(problem).toBeNull();
    expect(said).toEqual([expect.stringContaining(`bodies go over the fabric ${ANY}`)]);
    const body = randomBytes(200_000);
    expect(await path.put(idOf(body), body, TIMEOUT_MS)).toBeTrue();
    await path.close();
  });

  test("none can: each reason is told", async () => {
    const { problem, path } = await open([MISSING, { ...MISSING, source: "another-device" }]);
    expect(problem).toMatch(/no-such-device.*another-device/);
    await path.close();
  });

  test("the next one takes over from one that fails, and the first is tried again when it fails too", async () => {
    const { path, said } = await open(all);
    const body = randomBytes(200_000);
    const fails = async () => expect(await path.get(idOf(body), 0, new Kept(body.length, true), TIMEOUT_MS)).toBeNull();
    for (const { provider } of all) {
      await until(() => path.put(idOf(body), body, TIMEOUT_MS));
      expect(said.at(-1)).toContain(`bodies go over the fabric ${provider}`);
      await fails();
    }
    expect(said.at(-1)).toContain("bodies go by TLS for 1 s");
    await until(() => path.put(idOf(body), body, TIMEOUT_MS));
    expect(said.at(-1)).toContain(`bodies go over the fabric ${ANY}`);
    await path.close();
  });

  test("the best is tried again after a while, though the one that took over is well", async () => {
    const { path, said } = await open(all, 500);
    const body = randomBytes(200_000);
    const put = () => path.put(idOf(body), body, TIMEOUT_MS);
    const uses = (provider: string | undefined) => said.at(-1)?.includes(`bodies go over the fabric ${provider} `) === true;
    await put();
    expect(await path.get(idOf(body), 0, new Kept(body.length, true), TIMEOUT_MS)).toBeNull();
    await until(async () => (await put()) && uses(all.at(-1)?.provider));
    expect(uses(all.at(-1)?.provider)).toBeTrue();
    await until(async () => (await put()) && uses(ANY));
    expect(uses(ANY)).toBeTrue();
    await path.close();
  });
});

describe("a client that does not keep to it", () => {
  const lib = new Libfabric();

  /** What RdmaPath would say, for the test to say something else. */
  async function introduce(change: { key?: bigint; bytes?: number } = {}) {
    const client = await node.client("acme");
    const endpoint = new RdmEndpoint(lib, { provider: ANY, source: ADDRESS, operations: 1 });
    const memory = new MappedMemory(1024 * KIB);
    const region = endpoint.register(memory, "remote");
    const word = (value: bigint) => {
      const bytes = new Uint8Array(8);
      new DataView(bytes.buffer).setBigUint64(0, value);
      return bytes;
    };
    const macKey = new Uint8Array(32).fill(3);
    const polling = setInterval(() => endpoint.poll(() => undefined), 1);
    await client.call("rdmaOpen", {
      provider: ANY,
      domain: "",
      name: endpoint.name,
      base: word(region.base),
      key: word(change.key ?? region.key),
      bytes: change.bytes ?? memory.length,
      macKey,
    });
    const close = async () => {
      clearInterval(polling);
      await client.close();
      endpoint.close();
      memory.close();
    };
    return { client, memory, macKey, close };
  }

  test("a body that was changed on its way is refused, and not stored", async () => {
    const { client, memory, macKey, close } = await introduce();
    const body = randomBytes(200_000);
    const mac = bodyMac(macKey, 1, body);
    memory.bytes.set(body);
    memory.bytes[100_000] = (memory.bytes[100_000] as number) ^ 1;
    const put = { id: idOf(body), body: { at: 0, bytes: body.length, counter: 1, mac } };
    await expect(client.call("rdmaPut", put)).rejects.toMatchObject({ code: "fabric" });
    await expect(client.call("chunkGet", { id: put.id, offset: 0, length: 10 })).rejects.toMatchObject({ code: "not_found" });
    memory.bytes.set(body);
    expect((await client.call("rdmaPut", put)).answer).toEqual({ existed: false });
    await close();
  });

  test("a wrong key, places outside of its memory, no memory at all: an error for it, and nobody else notices", async () => {
    const { path } = await openPath(ANY);
    const body = randomBytes(300_000);
    await path.put(idOf(body), body, TIMEOUT_MS);
    const wrong = await introduce({ key: 12_345n });
    const get = { id: idOf(body), offset: 0, length: 200_000, at: 0 };
    await expect(wrong.client.call("rdmaGet", get)).rejects.toMatchObject({ code: "fabric" });
    await wrong.close();
    const right = await introduce();
    await expect(right.client.call("rdmaGet", { ...get, at: 1000 * KIB })).rejects.toMatchObject({ code: "bad_request" });
    expect((await right.client.call("rdmaGet", get)).answer).toEqual({ totalBytes: 300_000, placed: 200_000 });
    expect(Buffer.compare(right.memory.bytes.subarray(0, 200_000), body.subarray(0, 200_000))).toBe(0);
    await right.close();
    // It says that it has more than it has.
    const more = await introduce({ bytes: 64 * 1024 * KIB });
    await expect(more.client.call("rdmaGet", { ...get, at: 10 * 1024 * KIB })).rejects.toMatchObject({ code: "fabric" });
    await more.close();
    const none = await node.client("acme");
    await expect(none.call("rdmaGet", get)).rejects.toMatchObject({ code: "fabric" });
    const sink = new Kept(body.length);
    expect(await path.get(idOf(body), 0, sink, TIMEOUT_MS)).toBe(body.length);
    await path.close();
  });

  test("another tenant's chunks are not there for it", async () => {
    const { path } = await openPath(ANY);
    const body = randomBytes(300_000);
    await path.put(idOf(body), body, TIMEOUT_MS);
    const stranger = await node.client("stranger");
    const theirs = new RdmaPath(
      stranger,
      { candidates: [{ provider: ANY, source: ADDRESS, domain: "", rank: 0 }], slots: 2 },
      LOOP,
      () => undefined,
    );
    expect(await theirs.tryOnce()).toBeNull();
    await expect(theirs.get(idOf(body), 0, new Kept(body.length), TIMEOUT_MS)).rejects.toBeInstanceOf(NodeError);
    await theirs.close();
    await path.close();
  });
});

test("a fabric that the node does not have: why not, in words", async () => {
  const plain = await TestNode.start();
  const client = await plain.client("acme");
  expect((await client.call("discover", {})).answer.fabrics).toEqual([]);
  expect(await probeFabric(client, { candidates: [{ provider: ANY, source: ADDRESS, domain: "", rank: 0 }], slots: 1 }, LOOP)).toContain(
    "this node uses no fabric",
  );
  await plain.stop();
});
