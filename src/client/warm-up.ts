/**
 * The engine interprets a function when it is first called, and compiles what has run some thousand times: a fresh mount answered the first
 * few thousand names in twice the time of those after them. So, once it is there and while nobody asks for anything, it practises on a
 * namespace that exists only here, under a random key: it makes files in a folder, lists it, and encodes the entries for the kernel.
 */
import { randomBytes } from "node:crypto";
import { KeyRing } from "../crypto/key-ring.ts";
import { Namespace } from "../fs/inodes/namespace.ts";
import { newRoot } from "../fs/inodes/open-namespace.ts";
import { FolderReader } from "../fs/names/folder-reader.ts";
import { Tree } from "../fs/names/tree.ts";
import type { Caller } from "../fs/posix/vfs.ts";
import { FileType } from "../fs/records/inode-record.ts";
import { NO_OUTAGE, type NodeCalls } from "../fs/shard/node-calls.ts";
import { Shard } from "../fs/shard/shard.ts";
import { DirectoryBuffer } from "../mount/directory-buffer.ts";
import { NodeNumbers } from "../mount/node-numbers.ts";
import { decodeAnswer, decodeRequest, encodeAnswerFrame, encodeRequestFrame } from "../protocol/codec.ts";
import { FRAME_FIXED_BYTES, FrameDecoder } from "../protocol/frame.ts";
import { ROOT_INO, SESSION_ID_BYTES } from "../protocol/limits.ts";
import type { AnswerOf, Counters, InodeBundle, ListEntry, RequestOf } from "../protocol/messages.ts";
import { dentryPrefix } from "../protocol/record-keys.ts";
import type { ClientRequestOp } from "../transport/node-client-options.ts";

/** Files in the folder, and how often it is listed: together about what the engine wants to see before it compiles. */
const FILES = 128;
const LISTINGS = 16;
/** Practising (60 ms on an idle machine) ends when it has taken this long, done or not. */
const DURATION_MAX_MS = 300;
const READDIR_BYTES = 32 * 1024;

const CALLER: Caller = { uid: 0, gid: 0, pid: 1, umask: 0, killPriv: false, onInterrupt: () => {} };

/** Practises; yields to other work between its rounds. Resolves when done or out of time. */
export async function warmUp(): Promise<void> {
  const untilMs = performance.now() + DURATION_MAX_MS;
  using ring = KeyRing.fromMaterial({ keys: [{ epoch: 1, key: new Uint8Array(randomBytes(32)) }] });
  const keys = ring.namespace("practice");
  const node = new PracticeNode();
  const open = (): Namespace => new Namespace(new Shard(node, keys), node, { index: 0, metaTtlMs: 1_000, inodesMax: 2 * FILES });
  const timeout = { sec: 1, nsec: 0 };
  const owner = { uid: null, gid: null };
  const nodes = new NodeNumbers();
  const buffer = new DirectoryBuffer({ attrTimeout: timeout, entryTimeout: timeout, negativeTimeout: timeout, owner, nodes });
  try {
    const maker = open();
    const tree = new Tree(maker, new Uint8Array(SESSION_ID_BYTES));
    const root = adoptRoot(maker, node);
    for (let i = 0; i < FILES && performance.now() < untilMs; i++) await tree.make(CALLER, root, `name-${i}`, FileType.REGULAR | 0o644);
    for (let round = 0; round < LISTINGS && performance.now() < untilMs; round++) {
      await readFolder(open(), node, buffer);
      await new Promise((resolve) => setImmediate(resolve));
    }
  } finally {
    buffer.memory.close();
  }
}

function adoptRoot(namespace: Namespace, node: PracticeNode): ReturnType<Namespace["adopt"]> {
  return namespace.adopt({
    number: ROOT_INO,
    version: 1,
    isDamaged: false,
    attributes: newRoot(namespace.shard.rootFileId, { uid: 0, gid: 0 }),
    counters: node.counters,
    region0: null,
    leased: true,
  });
}

/** As a program that lists a folder and looks at each entry. */
async function readFolder(namespace: Namespace, node: PracticeNode, buffer: DirectoryBuffer): Promise<void> {
  const root = adoptRoot(namespace, node);
  const reader = new FolderReader(namespace, root);
  const names: string[] = [];
  let last = 0;
  for (let before = -1; before !== last; ) {
    before = last;
    buffer.start(READDIR_BYTES, true);
    await reader.read(last, true, ROOT_INO, (name, ino, type, cookie, attr) => {
      if (!buffer.fill(name, ino, type, cookie, attr)) return false;
      last = cookie;
      names.push(name);
      return true;
    });
  }
  for (const name of names) await namespace.lookup(root, name);
}

/** A node with one folder, in memory, that speaks the protocol: all goes through frames, there and back. */
class PracticeNode implements NodeCalls {
  readonly leaseValidUntilMs = Number.POSITIVE_INFINITY;
  readonly connected = true;
  readonly outage = NO_OUTAGE;
  readonly counters: Counters = { links: 0, entries: 0, mtimeSec: 0, mtimeNsec: 0, bumps: 0 };
  readonly #entries: ListEntry[] = [];
  #nextIno = ROOT_INO + 1;
  #header = new Uint8Array(0);
  readonly #decoder = new FrameDecoder({
    side: "client",
    onFrame: ({ header }) => {
      this.#header = new Uint8Array(header);
    },
  });

  async call<O extends ClientRequestOp>(op: O, request: RequestOf<O>): Promise<{ answer: AnswerOf<O>; body: Uint8Array }> {
    const [frame] = encodeRequestFrame(op, 1, request);
    const answer = this.#answer(op, decodeRequest(op, new Uint8Array(frame?.subarray(FRAME_FIXED_BYTES) ?? [])));
    for (const part of encodeAnswerFrame(op, 1, answer)) this.#decoder.push(part);
    return { answer: decodeAnswer(op, this.#header), body: new Uint8Array(0) };
  }

  #answer<O extends ClientRequestOp>(op: O, request: RequestOf<O>): AnswerOf<O> {
    const answers: Partial<{ [P in ClientRequestOp]: (request: RequestOf<P>) => AnswerOf<P> }> = {
      inoGrant: ({ count }) => {
        const first = this.#nextIno;
        this.#nextIno += count;
        return { first, count };
      },
      list: () => ({ entries: this.#entries, more: false, counters: this.counters, dirLeased: true }),
      commit: ({ delta }) => this.#commit(delta),
    };
    const handler = answers[op];
    if (handler === undefined) throw new Error(`${op} is not practised`);
    return handler(request);
  }

  /** Of each pair of puts, the first is a dentry of the root, the second its inode (tree.ts make). */
  #commit(delta: RequestOf<"commit">["delta"]): AnswerOf<"commit"> {
    const [dentry, inode] = delta.puts;
    if (dentry === undefined || inode === undefined) throw new Error("a commit of another kind");
    const version = delta.id;
    const attr = { version, link: 0, value: inode.value };
    const bundle: InodeBundle = { ino: dentry.link, attr, counters: null, region0: null, leased: true };
    const hash = dentry.key.subarray(dentryPrefix(ROOT_INO).length);
    this.#entries.push({ hash, dentry: { version, link: dentry.link, value: dentry.value }, inode: bundle });
    this.counters.entries++;
    this.counters.bumps++;
    return { ok: true, seq: version, counters: [{ ...this.counters }], leased: delta.leases, replayed: false };
  }
}
