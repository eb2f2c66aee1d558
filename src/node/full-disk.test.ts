/** A node whose disk is full refuses what needs room, keeps what it has, and works again when there is room. Needs root, for a small disk. */
import { expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { NodeError } from "../protocol/errors.ts";
import { inodeKey, regionKey } from "../protocol/record-keys.ts";
import { makeDelta } from "./engines/test-delta.ts";
import { TestNode } from "./test-node.ts";

const NS = "default";
const folder = mkdtempSync(join(tmpdir(), "kiseki-full-"));
const mounted =
  process.getuid?.() === 0 && Bun.spawnSync(["mount", "-t", "tmpfs", "-o", "size=24m", "none", folder], { stderr: "ignore" }).success;
if (!mounted) rmSync(folder, { recursive: true });

test.skipIf(!mounted)(
  "full disk",
  async () => {
    const node = await TestNode.start({ dataDir: join(folder, "data") });
    try {
      const client = await node.client("acme");
      const acknowledged: number[] = [];
      let lastId = 0;
      const commit = async (durable: boolean) => {
        const id = ++lastId;
        const puts = [{ key: inodeKey(id + 10), link: 0, chunks: [], value: new Uint8Array(20_000).fill(id & 0xff) }];
        await client.call("commit", { ns: NS, delta: makeDelta(id, { puts, durable }) });
        acknowledged.push(id);
      };
      const codeOf = (work: Promise<unknown>) =>
        work.then(
          () => "ok",
          (error: unknown) => (error instanceof NodeError ? error.code : String(error)),
        );
      const chunk = (n: number) => client.call("chunkPut", { id: new Uint8Array(32).fill(n) }, { body: [new Uint8Array(4_000_000)] });

      // Chunks are refused first; there is still room for records then, and so for deleting.
      const chunks: Uint8Array[] = [];
      for (let n = 1; (await codeOf(chunk(n))) === "ok"; n++) chunks.push(new Uint8Array(32).fill(n));
      expect(chunks.length).toBeGreaterThan(2);
      expect(await codeOf(chunk(99))).toBe("no_space");
      await client.call("commit", {
        ns: NS,
        delta: makeDelta(++lastId, { puts: [{ key: regionKey(5, 0), link: 0, chunks, value: new Uint8Array(10) }], durable: true }),
      });

      for (let code = "ok"; code === "ok"; ) code = await codeOf(commit(lastId % 3 === 0));
      for (const durable of [false, true]) expect(await codeOf(commit(durable))).toBe("no_space");
      expect(await codeOf(client.call("keyPut", { epoch: 1, wrapped: new Uint8Array(40) }))).toBe("no_space");
      expect(await codeOf(client.call("namespaceCreate", { name: "other" }))).toBe("no_space");
      expect(await codeOf(client.call("get", { ns: NS, keys: [inodeKey(12)] }))).toBe("ok");

      expect(Bun.spawnSync(["mount", "-o", "remount,size=80m", folder]).success).toBeTrue();
      expect(await codeOf(commit(true))).toBe("ok");
      expect(await codeOf(chunk(99))).toBe("ok");
      expect(await codeOf(client.call("keyPut", { epoch: 1, wrapped: new Uint8Array(40) }))).toBe("ok");
      expect(await codeOf(client.call("namespaceCreate", { name: "other" }))).toBe("ok");
      await node.restart();
      for (const id of acknowledged) {
        const { records } = (await client.call("get", { ns: NS, keys: [inodeKey(id + 10)] })).answer;
        expect(records[0]?.value[0]).toBe(id & 0xff);
      }
    } finally {
      await node.stop();
      Bun.spawnSync(["umount", folder]);
      rmSync(folder, { recursive: true });
    }
  },
  60_000,
);
