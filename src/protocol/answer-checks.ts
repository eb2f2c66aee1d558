/**
 * Whether an answer is one to what was asked: the inode, the folder, the range, in order, and no more than the limit. A node, or whoever holds
 * its disk, can answer with any record that the tenant ever sealed; what the seals can't tell is checked here, for everybody who asks.
 */
import { INO_MAX, KEY_EPOCHS_MAX, NAMESPACE_NAME_PATTERN, ROOT_INO } from "./limits.ts";
import type { AnswerOf, InodeBundle, OpName, RequestOf } from "./messages.ts";
import { NAME_HASH_BYTES } from "./record-keys.ts";

type Checks = { [O in OpName]?: (request: RequestOf<O>, answer: AnswerOf<O>) => string | null };

function bundleProblem(bundle: InodeBundle, ino: number): string | null {
  if (bundle.ino !== ino) return `asked for inode ${ino}, answered inode ${bundle.ino}`;
  if (bundle.attr === null && bundle.region0 !== null) return `inode ${ino} is not there, and has extents`;
  return null;
}

function compare(a: Uint8Array, b: Uint8Array): number {
  return Buffer.compare(a, b);
}

const CHECKS: Checks = {
  keyList: (_request, { keys }) => {
    if (keys.length > KEY_EPOCHS_MAX) return `${keys.length} data keys`;
    for (const [i, { epoch }] of keys.entries())
      if (i > 0 && epoch <= (keys[i - 1]?.epoch ?? 0)) return "data keys out of order, or one twice";
    return null;
  },
  rdmaGet: ({ length }, { placed }) => (placed <= length ? null : `asked for ${length} bytes, placed ${placed}`),
  namespaceList: (_request, { names }) => {
    if (new Set(names).size !== names.length) return "a namespace twice";
    return names.every((name) => NAMESPACE_NAME_PATTERN.test(name)) ? null : "what is no name of a namespace";
  },
  namespaceState: ({ ns }, { state }) => (state.name === ns ? null : `asked for namespace ${ns}, answered ${state.name}`),
  inoGrant: (request, { first, count }) => {
    if (count < 1 || count > request.count) return `asked for ${request.count} inode numbers, granted ${count}`;
    return first > ROOT_INO && first + count - 1 <= INO_MAX ? null : `granted inode numbers from ${first} on`;
  },
  credit: ({ bytes }, { granted }) => (granted <= bytes ? null : `asked for a credit of ${bytes} bytes, granted ${granted}`),
  get: ({ keys }, { records }) => (records.length === keys.length ? null : `asked for ${keys.length} records, answered ${records.length}`),
  inode: ({ ino }, { inode }) => bundleProblem(inode, ino),
  lookup: ({ want, leaseParent }, { dentry, inode, parentLeased }) => {
    if (parentLeased && !leaseParent) return "a lease that was not asked for";
    if (dentry === null) return inode === null ? null : "an inode without its entry";
    if (inode === null) return null;
    if (inode.leased && !want.lease) return "a lease that was not asked for";
    return bundleProblem(inode, dentry.link);
  },
  list: ({ after, limit, want, leaseDir }, { entries, more, dirLeased }) => {
    if (dirLeased && !leaseDir) return "a lease that was not asked for";
    if (entries.length > limit) return `asked for ${limit} entries at most, answered ${entries.length}`;
    if (more && entries.length === 0) return "more entries, and none of them";
    let last = after;
    for (const { hash, dentry, inode } of entries) {
      if (hash.length !== NAME_HASH_BYTES || compare(hash, last) <= 0) return "entries out of order, or one twice";
      last = hash;
      if (inode === null) continue;
      if (inode.leased && !want.lease) return "a lease that was not asked for";
      const problem = bundleProblem(inode, dentry.link);
      if (problem !== null) return problem;
    }
    return null;
  },
  range: ({ from, to, limit }, { records, more }) => {
    if (records.length > limit) return `asked for ${limit} records at most, answered ${records.length}`;
    if (more && records.length === 0) return "more records, and none of them";
    let last: Uint8Array | null = null;
    for (const { key } of records) {
      if (last === null ? compare(key, from) < 0 : compare(key, last) <= 0) return "records out of order, or one twice";
      if (to.length > 0 && compare(key, to) >= 0) return "a record beyond those that were asked for";
      last = key;
    }
    return null;
  },
  commit: ({ delta }, answer) => {
    if (!answer.ok) {
      if (answer.failed.length === 0) return "a change that was refused for no reason";
      return answer.failed.every((i) => i < delta.checks.length) ? null : "a change that was refused for what was not asked";
    }
    if (answer.counters.length !== delta.bumps.length) return `${delta.bumps.length} counters changed, answered ${answer.counters.length}`;
    return answer.leased.every((ino) => delta.leases.includes(ino)) ? null : "a lease that was not asked for";
  },
  chunkGet: ({ offset }, { totalBytes }) => (totalBytes > offset ? null : `a chunk of ${totalBytes} bytes`),
};

/** What is wrong with an answer to a request, for the log; null: nothing that can be seen without the keys. */
export function answerProblem<O extends OpName>(op: O, request: RequestOf<O>, answer: AnswerOf<O>): string | null {
  const check = CHECKS[op] as ((request: RequestOf<O>, answer: AnswerOf<O>) => string | null) | undefined;
  return check === undefined ? null : check(request, answer);
}

/** The inode that a request is about, for the log; null: none, or many. */
export function inodeAskedFor<O extends OpName>(op: O, request: RequestOf<O>): number | null {
  const asked = request as { ino?: number; dir?: number };
  return op === "inode" ? (asked.ino ?? null) : op === "list" ? (asked.dir ?? null) : null;
}
