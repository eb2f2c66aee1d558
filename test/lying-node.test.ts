/**
 * A node that answers with anything that the tenant ever sealed: whatever it says, a program gets the right bytes or an errno, never other bytes;
 * and when it has stopped lying, all is well again.
 */
import { afterAll, expect, setDefaultTimeout, test } from "bun:test";
import fc from "fast-check";
import type { AnswerOf, InodeBundle, OpName, RequestOf, StoredRecord } from "../src/protocol/messages.ts";
import { inodeKey, regionKey } from "../src/protocol/record-keys.ts";
import { Driver } from "./random/driver.ts";
import { howToRepeat, LIES_TOLD, SEED } from "./random/settings.ts";
import { cleanUp, KISEKI, run, runOk, TestMount, TestNode } from "./support/harness.ts";
import { type Answer, type Lie, LyingNode, type Memory } from "./support/lying-node.ts";

setDefaultTimeout(300_000);
afterAll(cleanUp);

/** Kinds of lies, by what they do to an answer. Each takes the answer apart as the operation needs it. */
const KINDS = [
  "other",
  "older",
  "missing",
  "repeated",
  "surplus",
  "reordered",
  "flipped",
  "cut",
  "link",
  "older region",
  "other region",
] as const;
type Kind = (typeof KINDS)[number];

const flip = (bytes: Uint8Array, at: number): Uint8Array => {
  const changed = bytes.slice();
  if (changed.length > 0) changed[at % changed.length] = (changed[at % changed.length] as number) ^ 0x20;
  return changed;
};
const flipped = (record: StoredRecord, at: number): StoredRecord => ({ ...record, value: flip(record.value, at) });
const pick = <T>(from: readonly T[], n: number): T | undefined => (from.length === 0 ? undefined : from[n % from.length]);

function lieAboutInode(kind: Kind, n: number, bundle: InodeBundle, memory: Memory): InodeBundle | undefined {
  const { ino, attr, region0 } = bundle;
  if (attr === null) return undefined;
  const other = pick(memory.others(ino), n);
  switch (kind) {
    case "other":
      // As it is, with its number exchanged, or only its records under the number that was asked for.
      return other === undefined ? undefined : n % 3 === 0 ? other : n % 3 === 1 ? { ...other, ino } : { ...bundle, attr: other.attr };
    case "missing":
      return n % 2 === 0 ? { ino, attr: null, counters: null, region0: null, leased: false } : { ...bundle, region0: null };
    case "older": {
      const record = memory.older(inodeKey(ino), attr);
      // Said to be new, so that only the content can show that it is not.
      return record === null ? undefined : { ...bundle, attr: { ...record, version: n % 2 === 0 ? attr.version + 1 : attr.version } };
    }
    case "older region": {
      const record = memory.older(regionKey(ino, 0), region0);
      return record === null || region0 === null ? undefined : { ...bundle, region0: { ...record, version: region0.version } };
    }
    case "other region":
      return other?.region0 == null ? undefined : { ...bundle, region0: other.region0 };
    case "flipped":
      return n % 2 === 0 || region0 === null ? { ...bundle, attr: flipped(attr, n) } : { ...bundle, region0: flipped(region0, n) };
    case "cut":
      return { ...bundle, attr: { ...attr, value: attr.value.slice(0, n % attr.value.length) } };
    case "link":
      return { ...bundle, attr: { ...attr, link: attr.link + 1 + (n % 3) } };
    default:
      return undefined;
  }
}

function lieAboutList<T>(kind: Kind, n: number, items: T[], others: readonly T[]): T[] | undefined {
  const at = items.length === 0 ? 0 : n % items.length;
  switch (kind) {
    case "missing":
      return items.length === 0 ? undefined : items.filter((_, i) => i !== at);
    case "repeated":
      return items.length === 0 ? undefined : [...items.slice(0, at + 1), ...items.slice(at)];
    case "surplus": {
      const other = pick(others, n);
      return other === undefined ? undefined : [...items.slice(0, at), other, ...items.slice(at)];
    }
    case "reordered":
      return items.length < 2 ? undefined : [...items.slice(1), items[0] as T];
    default:
      return undefined;
  }
}

function lieAboutRecord(kind: Kind, n: number, key: Uint8Array, record: StoredRecord, memory: Memory): StoredRecord | null | undefined {
  switch (kind) {
    case "other":
      return pick(n % 2 === 0 ? memory.alike(key) : memory.siblings(key), n)?.record;
    case "older": {
      const old = memory.older(key, record);
      return old === null ? undefined : { ...old, version: record.version };
    }
    case "missing":
      return null;
    case "flipped":
      return flipped(record, n);
    case "cut":
      return { ...record, value: record.value.slice(0, n % record.value.length) };
    case "link":
      return { ...record, link: record.link + 1 };
    default:
      return undefined;
  }
}

/** The lie of one kind about the n-th answer to `op` from here on, and about all after it that it can be told of. */
function lieOf(op: OpName, kind: Kind, n: number): Lie {
  return (asked, request, told, memory): Answer | undefined => {
    if (asked !== op) return undefined;
    const lied = (answer: object | undefined): Answer | undefined =>
      answer === undefined ? undefined : { ...told, answer: answer as never };
    switch (asked) {
      case "inode": {
        const inode = lieAboutInode(kind, n, (told.answer as AnswerOf<"inode">).inode, memory);
        return lied(inode && { inode });
      }
      case "lookup": {
        const answer = told.answer as AnswerOf<"lookup">;
        const { dentry, inode } = answer;
        if (dentry === null || inode === null) {
          // A name that is not there, said to be there.
          const entry = pick(memory.entries, n);
          return lied(entry && { ...answer, dentry: entry.dentry, inode: entry.inode });
        }
        if (n % 2 === 0) {
          const record = lieAboutRecord(kind, n, (request as RequestOf<"lookup">).key, dentry, memory);
          return lied(record === undefined ? undefined : { ...answer, dentry: record, inode: record === null ? null : inode });
        }
        const bundle = lieAboutInode(kind, n, inode, memory);
        return lied(bundle && { ...answer, inode: bundle });
      }
      case "list": {
        const answer = told.answer as AnswerOf<"list">;
        const entries = lieAboutList(kind, n, answer.entries, memory.entries);
        if (entries !== undefined) return lied({ ...answer, entries });
        const at = n % Math.max(1, answer.entries.length);
        const entry = answer.entries[at];
        if (entry?.inode == null) return undefined;
        if (kind === "other" && n % 2 === 1) {
          const other = pick(answer.entries, n + 1);
          return lied(
            other && {
              ...answer,
              entries: answer.entries.map((one, i) => (i === at ? { ...one, dentry: other.dentry, inode: other.inode } : one)),
            },
          );
        }
        const bundle = lieAboutInode(kind, n, entry.inode, memory);
        return lied(bundle && { ...answer, entries: answer.entries.map((one, i) => (i === at ? { ...one, inode: bundle } : one)) });
      }
      case "get": {
        const { records } = told.answer as AnswerOf<"get">;
        const { keys } = request as RequestOf<"get">;
        if (kind === "repeated") return lied({ records: [...records, ...records] });
        if (kind === "reordered") return lied({ records: [...records].reverse() });
        const at = n % records.length;
        const record = records[at];
        if (record == null) return undefined;
        const other = lieAboutRecord(kind, n, keys[at] as Uint8Array, record, memory);
        return lied(other === undefined ? undefined : { records: records.map((one, i) => (i === at ? other : one)) });
      }
      case "range": {
        const answer = told.answer as AnswerOf<"range">;
        const records = lieAboutList(
          kind,
          n,
          answer.records,
          answer.records.flatMap(({ key }) => memory.alike(key)),
        );
        if (records !== undefined) return lied({ ...answer, records });
        const at = n % Math.max(1, answer.records.length);
        const item = answer.records[at];
        const record = item && lieAboutRecord(kind, n, item.key, item.record, memory);
        return lied(
          record == null ? undefined : { ...answer, records: answer.records.map((one, i) => (i === at ? { ...one, record } : one)) },
        );
      }
      case "chunkGet": {
        const { id, offset, length } = request as RequestOf<"chunkGet">;
        const other = pick(
          [...memory.chunks].filter(([name]) => name !== id.toHex()),
          n,
        )?.[1];
        if (kind === "flipped") return { ...told, body: flip(told.body, n) };
        if (kind === "cut") return { ...told, body: told.body.slice(0, n % told.body.length) };
        if (kind === "other" && other !== undefined) return { ...told, body: other.slice(0, length) };
        if (kind === "missing") return lied({ totalBytes: offset + told.body.length + 16 });
        return undefined;
      }
      case "commit": {
        const answer = told.answer as AnswerOf<"commit">;
        if (!answer.ok) return undefined;
        if (kind === "missing") return lied({ ...answer, counters: [] });
        if (kind === "other") return lied({ ok: false, failed: [n % 9] });
        if (kind === "surplus") return lied({ ...answer, leased: [1 + (n % 9)] });
        return undefined;
      }
      default:
        return undefined;
    }
  };
}

/** What can be told about each operation. */
const LIES: readonly (readonly [OpName, Kind])[] = (
  [
    ["inode", ["other", "older", "missing", "older region", "other region", "flipped", "cut", "link"]],
    ["lookup", ["other", "older", "missing", "older region", "other region", "flipped", "cut", "link"]],
    ["list", ["other", "older", "missing", "repeated", "surplus", "reordered", "flipped", "cut", "link"]],
    ["get", ["other", "older", "missing", "repeated", "reordered", "flipped", "cut", "link"]],
    ["range", ["other", "older", "missing", "repeated", "surplus", "reordered", "flipped", "cut", "link"]],
    ["chunkGet", ["other", "missing", "flipped", "cut"]],
    ["commit", ["other", "missing", "surplus"]],
  ] as const
).flatMap(([op, kinds]) => kinds.map((kind) => [op, kind] as const));
const base64 = (text: string | Buffer): string => Buffer.from(text as string).toString("base64");
/** A file of several chunks and two regions, and its bytes at a place. */
const BIG_BYTES = 70 * 1024 * 1024;

interface Looked {
  value?: unknown;
  errno?: string;
}

test("right bytes or an errno, whatever the node answers; and all is well when it has stopped", async () => {
  console.log(howToRepeat("lying-node"));
  const node = await TestNode.start();
  const writer = await TestMount.mount(node);
  const write = async (script: string): Promise<void> => void (await runOk("python3", ["-c", script], { cwd: writer.path }));
  const lying = await LyingNode.start(node);
  const uncached = ["--cache-mode", "bypass", "-o", "meta_ttl_ms=0"];
  // Each state of the tree is seen by a mount while nothing is made up: the node then knows the older records.
  const texts = new Map<string, string[]>();
  const seen = await TestMount.mount(lying, { args: uncached });
  for (const state of ["first", "second"]) {
    await write(`
import os
os.makedirs("dir/sub", exist_ok=True)
for i in range(6):
  name = f"dir/small{i}"
  with open(name, "w") as f: f.write(f"${state} {i} " * (i + 1)); os.fsync(f.fileno())
  os.setxattr(name, "user.state", b"${state}"); os.setxattr(name, "user.second", b"${state} 2")
with open("dir/chunk", "wb") as f: f.write(b"${state} chunk " * 40000); os.fsync(f.fileno())
with open("dir/big", "r+b" if os.path.exists("dir/big") else "wb") as f:
  f.truncate(${BIG_BYTES})
  for at in (0, 5 << 20, 66 << 20): f.seek(at); f.write(b"${state} big " * 20000)
  os.fsync(f.fileno())
for name in ("dir/link", "dir/sub/moved"):
  if os.path.lexists(name): os.unlink(name)
os.symlink("${state}", "dir/link")
with open("dir/sub/moved", "w") as f: f.write("${state} moved"); os.fsync(f.fileno())
if "${state}" == "second": os.rename("dir/small5", "dir/sub/renamed"); open("dir/small5", "w").write("another file")
`);
    await runOk(
      "bash",
      [
        "-c",
        "ls -lR . > /dev/null; cat dir/small* dir/chunk dir/sub/* > /dev/null; getfattr -d dir/small*; head -c 9000000 dir/big | tail -c 9000 > /dev/null; readlink dir/link",
      ],
      { cwd: seen.path },
    );
  }
  for (let i = 0; i < 5; i++)
    texts.set(
      `dir/small${i}`,
      ["first", "second"].map((state) => base64(`${state} ${i} `.repeat(i + 1))),
    );
  texts.set(
    "dir/chunk",
    ["first", "second"].map((state) => base64(`${state} chunk `.repeat(40_000))),
  );
  texts.set("dir/sub/moved", [base64("second moved")]);
  texts.set(
    "dir/sub/renamed",
    ["first", "second"].map((state) => base64(`${state} 5 `.repeat(6))),
  );
  texts.set("dir/small5", [base64("another file")]);
  await seen.unmount();

  const names = new Map([
    ["dir", ["big", "chunk", "link", "small0", "small1", "small2", "small3", "small4", "small5", "sub"]],
    ["dir/sub", ["moved", "renamed"]],
  ]);
  const driver = new Driver("lied-to.py");
  let mount = await TestMount.mount(lying, { args: uncached });
  const look = (what: string, path: string, ...more: unknown[]): Promise<Looked> =>
    driver.call<Looked>(what, [`${mount.path}/${path}`, ...more]);
  /** `isWhole`: the node tells of a file as a whole as it was before, which nothing can show. */
  const check = async (isWhole: boolean): Promise<void> => {
    for (const [path, [first, second]] of texts) {
      const { value, errno } = await look("read", path);
      const right = second ?? first;
      if (errno === undefined && value !== right && !(isWhole && value === first))
        throw new Error(`${path}: ${String(value).slice(0, 60)}`);
      const attributes = (await look("xattrs", path)).value as Record<string, string> | undefined;
      const states = isWhole ? ["first", "second"] : ["second"];
      // One that can't be opened is not listed; the others are of one state.
      const fits = (state: string): boolean =>
        Object.entries(attributes ?? {}).every(([name, value]) => value === base64(name === "user.state" ? state : `${state} 2`));
      if (!states.some(fits)) throw new Error(`${path}: xattrs ${JSON.stringify(attributes)}`);
    }
    for (const at of [0, 5 << 20, 66 << 20]) {
      const { value, errno } = await look("slice", "dir/big", at, 40_000);
      const right = base64("second big ".repeat(4_000).slice(0, 40_000));
      const old = base64("first big ".repeat(4_000).slice(0, 40_000));
      if (errno === undefined && value !== right && !(isWhole && value === old))
        throw new Error(`dir/big at ${at}: ${String(value).slice(0, 60)}`);
    }
    const { value: target, errno } = await look("readlink", "dir/link");
    if (errno === undefined && target !== "second") throw new Error(`dir/link: ${target}`);
    for (const [folder, all] of names) {
      const { value: listed, errno: failed } = await look("list", folder);
      if (failed !== undefined) continue;
      const found = listed as string[];
      // What is withheld can't be noticed; what is not there, or there twice, can.
      // A record that does not open is shown as one that is damaged, and never as a name.
      if (new Set(found).size !== found.length || found.some((name) => !all.includes(name) && !name.startsWith(".kiseki-damaged-")))
        throw new Error(`${folder}: ${found.join(" ")}`);
    }
    const absent = await look("read", "dir/never");
    if (absent.errno === undefined) throw new Error(`dir/never: ${String(absent.value).slice(0, 60)}`);
  };
  await check(false);

  const told = new Map<string, number>();
  const runs = fc.tuple(fc.constantFrom(...LIES), fc.nat(1_000));
  await fc.assert(
    fc.asyncProperty(runs, async ([[op, kind], n]) => {
      // Nothing comes from memory.
      await runOk(KISEKI, ["cache", "wipe", mount.path]);
      lying.lies = 0;
      lying.lie = lieOf(op, kind, n);
      try {
        await check(kind === "older");
        await look("write", "dir/made", base64("made"));
        await look("unlink", "dir/made");
      } finally {
        lying.lie = null;
      }
      told.set(`${op}: ${kind}`, (told.get(`${op}: ${kind}`) ?? 0) + lying.lies);
      if (!mount.isRunning) throw new Error(`the mount has ended: ${mount.log().slice(-2_000)}`);
      await look("unlink", "dir/made");
      // All is well again, on the same mount. What was made while it lied may not be there, or be there still.
      const { value: back } = await look("read", "dir/small1");
      if (back !== texts.get("dir/small1")?.[1]) throw new Error(`after ${op}: ${kind}: ${JSON.stringify(back)}`);
    }),
    { numRuns: LIES_TOLD, seed: SEED, endOnFailure: true },
  );
  // One that told no lie has tried nothing.
  expect([...told].filter(([, count]) => count > 0).length).toBeGreaterThan(Math.min(LIES.length * 0.7, LIES_TOLD / 4));
  const { node: state } = JSON.parse((await runOk(KISEKI, ["cache", "stats", "--json", mount.path])).trim()) as { node: { lies: number } };
  expect(state.lies).toBeGreaterThan(0);
  expect(mount.log()).toContain("answered what can't be true");
  await mount.unmount();
  // And with nothing left in memory.
  mount = await TestMount.mount(node, { args: uncached });
  await check(false);
  await driver.end();
  await mount.unmount();
  await writer.unmount();
});

test("a number that was granted twice gives EIO, and never another file's bytes", async () => {
  const node = await TestNode.start();
  const writer = await TestMount.mount(node);
  await runOk("bash", ["-c", "for i in 1 2 3 4; do echo $i > $i; done; sync 4"], { cwd: writer.path });
  const first = Number((await runOk("stat", ["-c", "%i", `${writer.path}/1`])).trim());
  const lying = await LyingNode.start(node);
  lying.lie = (op, _request, told) => (op === "inoGrant" ? { ...told, answer: { first, count: 2 } as never } : undefined);
  const mount = await TestMount.mount(lying);
  const made = await run("bash", ["-c", "echo mine > mine"], { cwd: mount.path });
  expect(made.stderr).toContain("Input/output error");
  expect(mount.log()).toContain("granted its number twice");
  lying.lie = null;
  await runOk("bash", ["-c", "echo mine > mine"], { cwd: mount.path });
  for (const path of [mount.path, writer.path])
    expect(await runOk("cat", ["1", "2", "3", "4", "mine"], { cwd: path })).toBe("1\n2\n3\n4\nmine\n");
  // A node that lets it happen: the number's records become those of a later file, and the first name must not lead to them.
  await mount.unmount();
  lying.lie = (op, _request, told) => {
    if (op === "lookup" && (told.answer as AnswerOf<"lookup">).dentry?.link === first) {
      const answer = structuredClone(told.answer) as AnswerOf<"lookup">;
      const stolen = lying.memory.others(first).find(({ region0 }) => region0 !== null);
      return stolen === undefined ? undefined : { ...told, answer: { ...answer, inode: { ...stolen, ino: first } } as never };
    }
    if (op === "inode" && (told.answer as AnswerOf<"inode">).inode.ino === first) {
      const stolen = lying.memory.others(first).find(({ region0 }) => region0 !== null);
      return stolen === undefined ? undefined : { ...told, answer: { inode: { ...stolen, ino: first } } as never };
    }
    return undefined;
  };
  const lied = await TestMount.mount(lying, { args: ["-o", "meta_ttl_ms=0"] });
  await run("cat", ["2", "3", "4"], { cwd: lied.path });
  const { stdout, stderr } = await run("cat", ["1"], { cwd: lied.path });
  expect(stdout).toBe("");
  expect(stderr).toContain("Input/output error");
  await lied.unmount();
  await writer.unmount();
});
