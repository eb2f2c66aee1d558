import { afterAll, expect, setDefaultTimeout, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { newRoot } from "../fs/inodes/open-namespace.ts";
import { FileType, type InodeAttributes } from "../fs/records/inode-record.ts";
import type { Counters, InodeBundle, ListEntry } from "../protocol/messages.ts";
import type { Canonical } from "./canonical.ts";
import { Manifest } from "./manifest.ts";
import { Walk } from "./walk.ts";

// A million entries are made up.
setDefaultTimeout(60_000);

const folder = mkdtempSync(join(tmpdir(), "kiseki-walk-"));
let manifests = 0;
afterAll(() => rmSync(folder, { recursive: true }));

/** Folders by number: how many files are in each, and which folders. Numbers from 1,000,000 on are empty files. */
type Tree = Record<number, { files: number; folders: number[] }>;

const FIRST_FILE = 1_000_000;
const PAGE = 1_024;

/** A node with such a tree, whose records say nothing but their type. */
function canonicalOf(tree: Tree, onList: (dir: number) => void = () => {}): Canonical {
  const attributes = (ino: number): InodeAttributes => ({
    ...newRoot("0123456789abcdef", { uid: 0, gid: 0 }),
    mode: ino >= FIRST_FILE ? FileType.REGULAR : FileType.DIRECTORY,
  });
  const countersOf = (ino: number): Counters | null => {
    const found = tree[ino];
    if (found === undefined) return null;
    const { files, folders } = found;
    return { links: folders.length, entries: files + folders.length, mtimeSec: 0, mtimeNsec: 0, bumps: 1 };
  };
  const bundle = (ino: number): InodeBundle => ({
    ino,
    attr: { version: 1, link: 0, value: new Uint8Array() },
    counters: countersOf(ino),
    region0: null,
    leased: false,
  });
  const fake = {
    namespace: "default",
    inode: async (ino: number) => bundle(ino),
    attributes,
    rootAttributes: () => attributes(1),
    entry: (_dir: unknown, _key: unknown, dentry: { link: number }) => ({ name: "x", attributes: attributes(dentry.link) }),
    list: async (dir: number, after: Uint8Array) => {
      onList(dir);
      const { files, folders } = tree[dir] ?? { files: 0, folders: [] };
      const start = after.length === 0 ? 0 : Buffer.from(after).readUInt32BE(0) + 1;
      const count = files + folders.length;
      const entries: ListEntry[] = [];
      for (let i = start; i < Math.min(count, start + PAGE); i++) {
        const hash = new Uint8Array(16);
        new DataView(hash.buffer).setUint32(0, i);
        const ino = folders[i] ?? FIRST_FILE * (1 + dir) + i;
        entries.push({ hash, dentry: { version: 1, link: ino, value: new Uint8Array() }, inode: bundle(ino) });
      }
      return { entries, more: start + PAGE < count, counters: countersOf(dir), dirLeased: false };
    },
  };
  return fake as unknown as Canonical;
}

async function walk(tree: Tree, onList?: (dir: number) => void): Promise<{ walk: Walk; manifest: Manifest }> {
  const manifest = new Manifest(join(folder, `${++manifests}.next`), { namespace: "default", path: "/", inNamespace: "/" });
  const made = new Walk({
    canonical: canonicalOf(tree, onList),
    manifest,
    previous: null,
    isThere: () => false,
    signal: new AbortController().signal,
    beforePage: async () => {},
    onFound: () => {},
  });
  try {
    await made.run();
    return { walk: made, manifest };
  } finally {
    manifest.close();
  }
}

test("finds every file in every folder, large and small", async () => {
  const { walk: done } = await walk({
    1: { files: 3_000, folders: [2, 3] },
    2: { files: 1, folders: [4] },
    3: { files: 0, folders: [] },
    4: { files: 5, folders: [] },
  });
  expect(done.found).toMatchObject({ files: 3_006, filesDone: 3_006, bytes: 0 });
});

test("100,000 files are staged; beyond that the error says how many there are, without reading every folder", async () => {
  const few: Tree = { 1: { files: 60_000, folders: [2] }, 2: { files: 40_000, folders: [] } };
  expect((await walk(few)).walk.found.files).toBe(100_000);
  const many: Tree = {
    1: { files: 100_000, folders: [2, 3, 4] },
    2: { files: 5_000, folders: [] },
    3: { files: 7, folders: [5] },
    4: { files: 1_000, folders: [] },
    5: { files: 900_000, folders: [] },
  };
  const listed = new Set<number>();
  await expect(walk(many, (dir) => listed.add(dir))).rejects.toThrow("/: 1006007 files, at most 100000 can be staged as one dataset");
  expect(listed.has(5)).toBe(false);
});

test("ten folders deep is staged, eleven is an error", async () => {
  const chain = (depth: number): Tree =>
    Object.fromEntries(Array.from({ length: depth + 1 }, (_, i) => [i + 1, { files: 1, folders: i < depth ? [i + 2] : [] }]));
  expect((await walk(chain(10))).walk.found.files).toBe(11);
  await expect(walk(chain(11))).rejects.toThrow("folders lie 11 deep in the dataset, at most 10 are staged");
});
