import { expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { checkIsFolder, isKisekiMount, parseMountInfo, resolveMountpoint } from "./mountpoint.ts";

const folder = mkdtempSync(join(tmpdir(), "mountpoint-"));

test("mountinfo: optional fields and escaped bytes", () => {
  const text =
    "36 35 98:0 / /mnt rw,noatime shared:1 master:2 - ext4 /dev/root rw\n" +
    "40 36 0:45 / /mnt/with\\040space\\134 rw,nosuid - fuse.kiseki node:9100/t/n rw,user_id=0\n";
  expect(parseMountInfo(text)).toEqual([
    { mountpoint: "/mnt", type: "ext4" },
    { mountpoint: "/mnt/with space\\", type: "fuse.kiseki" },
  ]);
});

test("a folder is found through symbolic links", () => {
  mkdirSync(join(folder, "real"));
  symlinkSync("real", join(folder, "link"));
  expect(resolveMountpoint(join(folder, "link"))).toBe(join(folder, "real"));
  expect(isKisekiMount(join(folder, "real"))).toBe(false);
});

test("a missing mountpoint and one that is no folder are refused, with the remedy", () => {
  expect(() => resolveMountpoint(join(folder, "missing"))).toThrow("mkdir -p");
  writeFileSync(join(folder, "file"), "");
  expect(() => resolveMountpoint(join(folder, "file/sub"))).toThrow("not a folder");
  expect(() => checkIsFolder(join(folder, "file"))).toThrow("not a folder");
});
