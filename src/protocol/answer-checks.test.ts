import { describe, expect, test } from "bun:test";
import { answerProblem } from "./answer-checks.ts";
import type { AnswerOf, Counters, InodeBundle, ListEntry, OpName, RequestOf, StoredRecord } from "./messages.ts";
import { dentryKey, inodeKey, regionKey } from "./record-keys.ts";

const record: StoredRecord = { version: 1, link: 7, value: new Uint8Array(3) };
const counters: Counters = { links: 0, entries: 0, mtimeSec: 0, mtimeNsec: 0, bumps: 0 };
const want = { lease: false, region0MaxBytes: 0 };
const bundle = (ino: number): InodeBundle => ({ ino, attr: record, counters: null, region0: null, leased: false });
const hash = (byte: number): Uint8Array => new Uint8Array(16).fill(byte);
const entry = (byte: number, ino: number): ListEntry => ({ hash: hash(byte), dentry: { ...record, link: ino }, inode: bundle(ino) });
const none = new Uint8Array(0);
const delta = { id: 1, answeredBelow: 1, checks: [], puts: [], deletes: [], deletePrefixes: [], durable: false };

interface Case<O extends OpName> {
  op: O;
  request: RequestOf<O>;
  right: AnswerOf<O>[];
  wrong: Record<string, AnswerOf<O>>;
}
const caseOf = <O extends OpName>(one: Case<O>): Case<O> => one;

const list = { ns: "n", dir: 1, after: hash(3), limit: 2, inodes: true, want, leaseDir: false };
const listed = (entries: ListEntry[], more = false): AnswerOf<"list"> => ({ entries, more, counters, dirLeased: false });
const range = { ns: "n", from: regionKey(7, 0), to: regionKey(7, 9), limit: 2 };
const ranged = (keys: Uint8Array[], more = false): AnswerOf<"range"> => ({ records: keys.map((key) => ({ key, record })), more });
const lookup = { ns: "n", key: dentryKey(1, hash(1)), want, leaseParent: false };

const CASES = [
  caseOf({
    op: "inode",
    request: { ns: "n", ino: 7, want },
    right: [{ inode: bundle(7) }, { inode: { ...bundle(7), attr: null } }],
    wrong: { "another inode": { inode: bundle(8) }, "extents of no inode": { inode: { ...bundle(7), attr: null, region0: record } } },
  }),
  caseOf({
    op: "lookup",
    request: lookup,
    right: [
      { dentry: record, inode: bundle(7), parentLeased: false },
      { dentry: null, inode: null, parentLeased: false },
    ],
    wrong: {
      "an inode that the entry does not name": { dentry: record, inode: bundle(8), parentLeased: false },
      "an inode without an entry": { dentry: null, inode: bundle(7), parentLeased: false },
      "a lease that nobody asked for": { dentry: record, inode: { ...bundle(7), leased: true }, parentLeased: false },
      "the folder's lease": { dentry: record, inode: bundle(7), parentLeased: true },
    },
  }),
  caseOf({
    op: "list",
    request: list,
    right: [listed([entry(4, 7), entry(9, 8)]), listed([]), listed([entry(4, 7)], true)],
    wrong: {
      "more than the limit": listed([entry(4, 7), entry(5, 8), entry(6, 9)]),
      "one before the start": listed([entry(2, 7)]),
      "the start itself": listed([entry(3, 7)]),
      "one twice": listed([entry(4, 7), entry(4, 7)]),
      "out of order": listed([entry(9, 8), entry(4, 7)]),
      "an inode that the entry does not name": listed([{ ...entry(4, 7), inode: bundle(8) }]),
      "more of nothing": listed([], true),
    },
  }),
  caseOf({
    op: "range",
    request: range,
    right: [ranged([regionKey(7, 0), regionKey(7, 8)]), ranged([])],
    wrong: {
      "more than the limit": ranged([regionKey(7, 0), regionKey(7, 1), regionKey(7, 2)]),
      "before the start": ranged([inodeKey(7)]),
      "the end itself": ranged([regionKey(7, 9)]),
      "another inode's": ranged([regionKey(8, 0)]),
      "one twice": ranged([regionKey(7, 0), regionKey(7, 0)]),
      "out of order": ranged([regionKey(7, 8), regionKey(7, 0)]),
      "more of nothing": ranged([], true),
    },
  }),
  caseOf({
    op: "get",
    request: { ns: "n", keys: [inodeKey(1), inodeKey(2)] },
    right: [{ records: [record, null] }],
    wrong: { "too few": { records: [record] }, "too many": { records: [record, null, null] } },
  }),
  caseOf({
    op: "inoGrant",
    request: { ns: "n", count: 10 },
    right: [
      { first: 2, count: 10 },
      { first: 900, count: 1 },
    ],
    wrong: {
      "more than asked": { first: 2, count: 11 },
      none: { first: 2, count: 0 },
      "the root": { first: 1, count: 5 },
      "too large": { first: 2 ** 40 - 1, count: 5 },
    },
  }),
  caseOf({
    op: "commit",
    request: {
      ns: "n",
      delta: {
        ...delta,
        checks: [{ kind: "absent", key: inodeKey(9) }],
        bumps: [{ ino: 1, links: 0, entries: 1, mtimeSec: 0, mtimeNsec: 0 }],
        leases: [9],
      },
    },
    right: [
      { ok: true, seq: 1, counters: [counters], leased: [9], replayed: false },
      { ok: false, failed: [0] },
    ],
    wrong: {
      "no counters": { ok: true, seq: 1, counters: [], leased: [], replayed: false },
      "another's lease": { ok: true, seq: 1, counters: [counters], leased: [8], replayed: false },
      "a check that was not made": { ok: false, failed: [1] },
      "no reason": { ok: false, failed: [] },
    },
  }),
  caseOf({
    op: "keyList",
    request: {},
    right: [{ keys: [1, 2].map((epoch) => ({ epoch, wrapped: none })) }],
    wrong: {
      "one twice": { keys: [1, 1].map((epoch) => ({ epoch, wrapped: none })) },
      "out of order": { keys: [2, 1].map((epoch) => ({ epoch, wrapped: none })) },
    },
  }),
  caseOf({
    op: "namespaceList",
    request: {},
    right: [{ names: ["a", "b"] }],
    wrong: { "one twice": { names: ["a", "a"] }, "no name": { names: ["../a"] } },
  }),
  caseOf({
    op: "chunkGet",
    request: { id: new Uint8Array(32), offset: 10, length: 5 },
    right: [{ totalBytes: 11 }],
    wrong: { "ends before": { totalBytes: 10 } },
  }),
  caseOf({
    op: "rdmaGet",
    request: { id: new Uint8Array(32), offset: 10, length: 5, at: 0 },
    right: [{ totalBytes: 15, placed: 5 }],
    wrong: { "more than asked": { totalBytes: 100, placed: 6 } },
  }),
] as unknown as Case<OpName>[];

describe.each(CASES.map((one) => [one.op, one] as const))("%s", (_op, { op, request, right, wrong }) => {
  test("what was asked is taken", () => {
    for (const answer of right) expect(answerProblem(op, request, answer)).toBeNull();
  });

  test.each(Object.keys(wrong))("%s is refused", (name) => {
    expect(answerProblem(op, request, wrong[name] as AnswerOf<OpName>)).toBeString();
  });
});
