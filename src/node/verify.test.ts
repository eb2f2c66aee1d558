import { expect, test } from "bun:test";
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { regionKey } from "../protocol/record-keys.ts";
import { makeDelta } from "./engines/test-delta.ts";
import { TestNode } from "./test-node.ts";
import { verifyDataFolder } from "./verify.ts";

const id = (n: number) => new Uint8Array(32).fill(n);

test("verify finds sound data sound, and names changed, missing and unreferenced chunks", async () => {
  const folder = join(mkdtempSync(join(tmpdir(), "kiseki-verify-")), "data");
  const node = await TestNode.start();
  const client = await node.client("acme");
  for (const n of [1, 2, 3]) await client.call("chunkPut", { id: id(n) }, { body: [new Uint8Array(1_000).fill(n)] });
  const puts = [{ key: regionKey(5, 0), link: 0, chunks: [id(1), id(2)], value: new Uint8Array(10) }];
  await client.call("commit", { ns: "default", delta: makeDelta(1, { puts }) });
  expect(verifyDataFolder(node.dataDir, () => {})).rejects.toThrow("in use");
  client.abandon();
  await node.node.stop();
  cpSync(node.dataDir, folder, { recursive: true });
  await node.restart().catch(() => {});
  await node.stop();

  const lines: string[] = [];
  const verify = () => verifyDataFolder(folder, (line) => lines.push(line));
  expect(await verify()).toEqual({ namespaces: 1, chunks: 3, damages: 0, unreferenced: 1 });
  const path = (n: number) => join(folder, "tenants/acme/chunks", id(n).toHex().slice(0, 2), id(n).toHex());
  const changed = readFileSync(path(1));
  changed[7] = 99;
  writeFileSync(path(1), changed);
  rmSync(path(2));
  expect(await verify()).toEqual({ namespaces: 1, chunks: 2, damages: 2, unreferenced: 1 });
  expect(lines).toEqual([
    `tenant acme: chunk ${id(1).toHex()} fails its checksum`,
    `tenant acme: chunk ${id(2).toHex()} is missing, and a record refers to it`,
  ]);
  expect(verifyDataFolder(join(folder, "none"), () => {})).rejects.toThrow("not a storage node's data folder");
  rmSync(folder, { recursive: true });
});
