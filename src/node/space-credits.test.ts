/** What a node promises its sessions of a tenant's space: never more than there is, never taken away, and given back. */
import { afterEach, expect, test } from "bun:test";
import { join } from "node:path";
import { NodeError } from "../protocol/errors.ts";
import { MIB, SESSION_ID_BYTES } from "../protocol/limits.ts";
import { regionKey } from "../protocol/record-keys.ts";
import type { NodeClient } from "../transport/node-client.ts";
import { makeDelta } from "./engines/test-delta.ts";
import { changeLimits } from "./limits.ts";
import { TestNode } from "./test-node.ts";

const NS = "default";
const LIMIT = 32 * MIB;
/** The node looks at the limits this often, and then some. */
const LIMITS_SEEN_MS = 700;

let node: TestNode;
afterEach(async () => await node.stop());

async function limited(options: Parameters<typeof TestNode.start>[0] = {}): Promise<void> {
  node = await TestNode.start(options);
  await node.client("acme");
  await changeLimits(join(node.dataDir, "limits.json"), "acme", { bytes: LIMIT, inodes: undefined, namespaces: undefined });
  await Bun.sleep(LIMITS_SEEN_MS);
}

const credit = async (client: NodeClient, bytes: number, needed = bytes) => (await client.call("credit", { bytes, needed })).answer;
const id = (n: number) => new Uint8Array(32).fill(n);
const put = (client: NodeClient, n: number, bytes: number) =>
  client.call("chunkPut", { id: id(n) }, { body: [new Uint8Array(bytes).fill(n)] }).then(
    () => "ok",
    (error: unknown) => (error instanceof NodeError ? error.code : String(error)),
  );
const free = async (client: NodeClient) => (await client.call("statfs", { ns: NS })).answer.freeBytes;

test("two sessions are promised no more than the limit, and what is promised to one is refused to the other, and to puts without credit", async () => {
  await limited();
  const [one, other] = [await node.client("acme"), await node.client("acme")];
  expect(await credit(one, 20 * MIB)).toEqual({ granted: 20 * MIB, overQuota: false });
  const second = await credit(other, 20 * MIB);
  expect(second.overQuota).toBeTrue();
  expect(second.granted).toBeWithin(11 * MIB, 12 * MIB + 1);
  const stranger = await node.client("acme");
  expect(await put(stranger, 1, MIB)).toBe("over_quota");
  // Five chunks of credit: the same bytes, but for headers.
  for (let n = 2; n <= 6; n++) expect(await put(one, n, 4 * MIB)).toBe("ok");
  expect(await put(one, 7, 4 * MIB)).toBe("over_quota");
  for (let n = 8; n <= 9; n++) expect(await put(other, n, 4 * MIB)).toBe("ok");
  expect(await free(other)).toBeWithin(3 * MIB, 4 * MIB + 1);
});

test("ahead of what is needed a session gets a part of what is left; asking for less gives back", async () => {
  await limited();
  const [one, other] = [await node.client("acme"), await node.client("acme")];
  const { granted } = await credit(one, 1024 * MIB, MIB);
  expect(granted).toBeWithin(MIB, LIMIT / 4);
  expect((await credit(other, 30 * MIB)).overQuota).toBeTrue();
  expect(await credit(one, 0)).toEqual({ granted: 0, overQuota: false });
  await credit(other, 0);
  expect(await credit(other, 30 * MIB)).toEqual({ granted: 30 * MIB, overQuota: false });
});

test("the credit of a session that was killed comes back when the session ends", async () => {
  await limited({ sessionTimeoutMs: 1_000 });
  const [one, other] = [await node.client("acme"), await node.client("acme")];
  expect((await credit(one, 30 * MIB)).granted).toBe(30 * MIB);
  expect((await credit(other, 20 * MIB)).overQuota).toBeTrue();
  one.abandon();
  const deadline = performance.now() + 20_000;
  while ((await credit(other, 20 * MIB)).overQuota && performance.now() < deadline) await Bun.sleep(100);
  expect(await credit(other, 20 * MIB)).toEqual({ granted: 20 * MIB, overQuota: false });
}, 40_000);

test("chunks that come at once stay below the limit together", async () => {
  await limited();
  const client = await node.client("acme");
  const results = await Promise.all(Array.from({ length: 16 }, (_, i) => put(client, i + 1, 4 * MIB)));
  // Each is a little more than 4 MiB on the disk.
  expect(results.filter((result) => result === "ok").length).toBe(7);
  expect(results.filter((result) => result === "over_quota").length).toBe(9);
});

test("a record in place of another takes credit for the bytes by which it is larger", async () => {
  await limited();
  const client = await node.client("acme");
  const other = await node.client("acme");
  let deltaId = 0;
  const commit = (bytes: number) =>
    client
      .call("commit", {
        ns: NS,
        delta: makeDelta(++deltaId, { puts: [{ key: regionKey(5, 0), link: 0, chunks: [], value: new Uint8Array(bytes).fill(deltaId) }] }),
      })
      .then(
        () => "ok",
        (error: unknown) => (error instanceof NodeError ? error.code : String(error)),
      );
  await credit(client, MIB);
  // All that is left.
  await credit(other, LIMIT);
  for (let i = 0; i < 5; i++) expect(await commit(MIB / 2)).toBe("ok");
  expect(await commit(MIB)).toBe("ok");
  expect(await commit(MIB + 200_000)).toBe("over_quota");
  expect(await commit(MIB)).toBe("ok");
});

test("after a restart nobody is granted more before those of the run before have said what they hold", async () => {
  await limited();
  const sessionId = crypto.getRandomValues(new Uint8Array(SESSION_ID_BYTES));
  const one = await node.client("acme", { sessionId });
  expect((await credit(one, 24 * MIB)).granted).toBe(24 * MIB);
  await node.restart();
  const other = await node.client("acme");
  const asked = credit(other, 20 * MIB);
  expect(await credit(one, 24 * MIB)).toEqual({ granted: 24 * MIB, overQuota: false });
  const answer = await asked;
  expect(answer.overQuota).toBeTrue();
  expect(answer.granted).toBeLessThan(8 * MIB + 1);
}, 30_000);
