/**
 * The bytes of every message: a MessagePack array whose items are the fields in the order written here, no names. For each operation
 * encode and decode stand side by side and mirror each other; both check every field, and decoding ends by checking that nothing
 * trails. A changed tuple is a new PROTOCOL_VERSION.
 */

import { decodeCommitResult, decodeDelta, encodeCommitResult, encodeDelta } from "./codec-commit.ts";
import {
  bytes,
  chunkId,
  count,
  decodeCounters,
  decodeInode,
  decodePresentInode,
  decodePresentRecord,
  decodeRecord,
  decodeWant,
  each,
  encodeCounters,
  encodeInode,
  encodeRecord,
  encodeWant,
  flag,
  inode,
  integer,
  items,
  key,
  namespace,
  text,
  tuple,
} from "./codec-fields.ts";
import { decodeLimit, encodeLimit, tenantLimitCodec } from "./codec-limits.ts";
import { packMessage, unpackMessage } from "./codec-msgpack.ts";
import { decodePolicy, encodePolicy } from "./codec-policy.ts";
import { discoverCodec, rdmaGetCodec, rdmaOpenCodec, rdmaProbeCodec, rdmaPutCodec } from "./codec-rdma.ts";
import { decodeNamespaceState, decodeStore, encodeNamespaceState, encodeStore } from "./codec-store.ts";
import { NodeError, ProtocolError } from "./errors.ts";
import { FLAG_ANSWER, FLAG_ERROR, finishFrame } from "./frame.ts";
import {
  ANSWER_RECORDS_MAX,
  CHUNK_PARTS,
  CHUNK_RELEASE_MAX,
  GET_KEYS_MAX,
  HELLO_NAMESPACES_MAX,
  INO_GRANT_MAX,
  INSTANCE_ID_BYTES,
  KEY_EPOCHS_MAX,
  LEASE_INOS_MAX,
  NAMESPACES_MAX,
  RECORD_KEY_MAX_BYTES,
  SEALED_CHUNK_MAX_BYTES,
  SESSION_ID_BYTES,
  WORKLOAD_NAME_PATTERN,
  WRAPPED_KEY_MAX_BYTES,
} from "./limits.ts";
import {
  type AnswerOf,
  type GcReport,
  NODE_ERRORS,
  type NodeErrorCode,
  type OpName,
  PROTOCOL_VERSION,
  type RequestOf,
} from "./messages.ts";
import { NAME_HASH_BYTES } from "./record-keys.ts";

/** Program versions, cluster and tenant names in hello. */
const TEXT_MAX_LENGTH = 256;
const GC_FIELDS = ["chunks", "bytes", "freedChunks", "freedBytes", "keptChunks", "keptBytes"] as const;
/** The text beside an error code; longer ones are cut. */
const ERROR_TEXT_MAX_LENGTH = 1_000;

interface OpCodec<Request, Answer> {
  encodeRequest(request: Request): unknown[];
  decodeRequest(fields: unknown[]): Request;
  encodeAnswer(answer: Answer): unknown[];
  decodeAnswer(fields: unknown[]): Answer;
}

const noFields = {
  encode: (): unknown[] => [],
  decode: (fields: unknown[]): Record<string, never> => {
    tuple(fields, 0, "message");
    return {};
  },
};

const codecs: { readonly [O in OpName]: OpCodec<RequestOf<O>, AnswerOf<O>> } = {
  hello: {
    encodeRequest: (r) => [
      count(r.protocol, "protocol"),
      bytes(r.sessionId, SESSION_ID_BYTES, SESSION_ID_BYTES, "session id"),
      text(r.clientVersion, TEXT_MAX_LENGTH, "client version"),
      role(r.role),
      bytes(r.lastStart, 0, INSTANCE_ID_BYTES, "last start"),
      each(items(r.namespaces, HELLO_NAMESPACES_MAX, "namespaces"), namespace),
    ],
    // A client of another protocol gets an answer that says so: its version stands first, whatever follows.
    decodeRequest: (f) => ({
      protocol: count(f[0], "protocol"),
      sessionId: bytes(f[1], SESSION_ID_BYTES, SESSION_ID_BYTES, "session id"),
      clientVersion: text(f[2], TEXT_MAX_LENGTH, "client version"),
      role: role(f[3]),
      lastStart: f[0] === PROTOCOL_VERSION ? bytes(tuple(f, 6, "hello")[4], 0, INSTANCE_ID_BYTES, "last start") : new Uint8Array(0),
      namespaces: f[0] === PROTOCOL_VERSION ? each(items(f[5], HELLO_NAMESPACES_MAX, "namespaces"), namespace) : [],
    }),
    encodeAnswer: (a) => [
      text(a.nodeVersion, TEXT_MAX_LENGTH, "node version"),
      text(a.cluster, TEXT_MAX_LENGTH, "cluster"),
      text(a.tenant, TEXT_MAX_LENGTH, "tenant"),
      count(a.leaseMs, "leaseMs"),
      flag(a.resumed, "resumed"),
      encodeStore(a.store),
    ],
    decodeAnswer: (f) => ({
      nodeVersion: text(tuple(f, 6, "hello answer")[0], TEXT_MAX_LENGTH, "node version"),
      cluster: text(f[1], TEXT_MAX_LENGTH, "cluster"),
      tenant: text(f[2], TEXT_MAX_LENGTH, "tenant"),
      leaseMs: count(f[3], "leaseMs"),
      resumed: flag(f[4], "resumed"),
      store: decodeStore(f[5]),
    }),
  },
  ping: { encodeRequest: noFields.encode, decodeRequest: noFields.decode, encodeAnswer: noFields.encode, decodeAnswer: noFields.decode },
  bye: { encodeRequest: noFields.encode, decodeRequest: noFields.decode, encodeAnswer: noFields.encode, decodeAnswer: noFields.decode },
  keyList: {
    encodeRequest: noFields.encode,
    decodeRequest: noFields.decode,
    encodeAnswer: (a) => [each(items(a.keys, KEY_EPOCHS_MAX, "keys"), encodeKeyEpoch)],
    decodeAnswer: (f) => ({ keys: each(items(tuple(f, 1, "keyList answer")[0], KEY_EPOCHS_MAX, "keys"), decodeKeyEpoch) }),
  },
  keyPut: {
    encodeRequest: encodeKeyEpoch,
    decodeRequest: decodeKeyEpoch,
    encodeAnswer: noFields.encode,
    decodeAnswer: noFields.decode,
  },
  keyShred: {
    encodeRequest: noFields.encode,
    decodeRequest: noFields.decode,
    encodeAnswer: (a) => [count(a.keys, "keys")],
    decodeAnswer: (f) => ({ keys: count(tuple(f, 1, "keyShred answer")[0], "keys") }),
  },
  namespaceList: {
    encodeRequest: noFields.encode,
    decodeRequest: noFields.decode,
    encodeAnswer: (a) => [each(items(a.names, NAMESPACES_MAX, "names"), namespace)],
    decodeAnswer: (f) => ({ names: each(items(tuple(f, 1, "namespaceList answer")[0], NAMESPACES_MAX, "names"), namespace) }),
  },
  namespaceCreate: {
    encodeRequest: (r) => [namespace(r.name)],
    decodeRequest: (f) => ({ name: namespace(tuple(f, 1, "namespaceCreate")[0]) }),
    encodeAnswer: noFields.encode,
    decodeAnswer: noFields.decode,
  },
  namespaceDelete: {
    encodeRequest: (r) => [namespace(r.name), flag(r.force, "force")],
    decodeRequest: (f) => ({ name: namespace(tuple(f, 2, "namespaceDelete")[0]), force: flag(f[1], "force") }),
    encodeAnswer: noFields.encode,
    decodeAnswer: noFields.decode,
  },
  namespaceState: {
    encodeRequest: (r) => [namespace(r.ns)],
    decodeRequest: (f) => ({ ns: namespace(tuple(f, 1, "namespaceState")[0]) }),
    encodeAnswer: (a) => [encodeNamespaceState(a.state)],
    decodeAnswer: (f) => ({ state: decodeNamespaceState(tuple(f, 1, "namespaceState answer")[0]) }),
  },
  statfs: {
    encodeRequest: (r) => [namespace(r.ns)],
    decodeRequest: (f) => ({ ns: namespace(tuple(f, 1, "statfs")[0]) }),
    encodeAnswer: (a) => [
      count(a.totalBytes, "totalBytes"),
      count(a.freeBytes, "freeBytes"),
      count(a.inodes, "inodes"),
      encodeLimit(a.freeInodes, "freeInodes"),
    ],
    decodeAnswer: (f) => ({
      totalBytes: count(tuple(f, 4, "statfs answer")[0], "totalBytes"),
      freeBytes: count(f[1], "freeBytes"),
      inodes: count(f[2], "inodes"),
      freeInodes: decodeLimit(f[3], "freeInodes"),
    }),
  },
  tenantLimit: tenantLimitCodec,
  credit: {
    encodeRequest: (r) => [count(r.bytes, "bytes"), count(r.needed, "needed")],
    decodeRequest: (f) => ({ bytes: count(tuple(f, 2, "credit")[0], "bytes"), needed: count(f[1], "needed") }),
    encodeAnswer: (a) => [count(a.granted, "granted"), flag(a.overQuota, "overQuota")],
    decodeAnswer: (f) => ({ granted: count(tuple(f, 2, "credit answer")[0], "granted"), overQuota: flag(f[1], "overQuota") }),
  },
  gc: {
    encodeRequest: (r) => [integer(r.part, 0, CHUNK_PARTS - 1, "part"), flag(r.dryRun, "dryRun")],
    decodeRequest: (f) => ({ part: integer(tuple(f, 2, "gc")[0], 0, CHUNK_PARTS - 1, "part"), dryRun: flag(f[1], "dryRun") }),
    encodeAnswer: (a) => GC_FIELDS.map((field) => count(a[field], field)),
    decodeAnswer: (f) => {
      const values = tuple(f, GC_FIELDS.length, "gc answer");
      return Object.fromEntries(GC_FIELDS.map((field, i) => [field, count(values[i], field)])) as unknown as GcReport;
    },
  },
  policyGet: {
    encodeRequest: (r) => [each(items(r.namespaces, NAMESPACES_MAX, "namespaces"), namespace), workload(r.workload)],
    decodeRequest: (f) => ({
      namespaces: each(items(tuple(f, 2, "policyGet")[0], NAMESPACES_MAX, "namespaces"), namespace),
      workload: workload(f[1]),
    }),
    encodeAnswer: (a) => [encodePolicy(a.policy)],
    decodeAnswer: (f) => ({ policy: decodePolicy(tuple(f, 1, "policyGet answer")[0]) }),
  },
  inoGrant: {
    encodeRequest: (r) => [namespace(r.ns), integer(r.count, 1, INO_GRANT_MAX, "count")],
    decodeRequest: (f) => ({ ns: namespace(tuple(f, 2, "inoGrant")[0]), count: integer(f[1], 1, INO_GRANT_MAX, "count") }),
    encodeAnswer: (a) => [inode(a.first), integer(a.count, 1, INO_GRANT_MAX, "count")],
    decodeAnswer: (f) => ({ first: inode(tuple(f, 2, "inoGrant answer")[0]), count: integer(f[1], 1, INO_GRANT_MAX, "count") }),
  },
  get: {
    encodeRequest: (r) => [namespace(r.ns), each(items(r.keys, GET_KEYS_MAX, "keys"), key)],
    decodeRequest: (f) => ({ ns: namespace(tuple(f, 2, "get")[0]), keys: each(items(f[1], GET_KEYS_MAX, "keys"), key) }),
    encodeAnswer: (a) => [each(items(a.records, ANSWER_RECORDS_MAX, "records"), encodeRecord)],
    decodeAnswer: (f) => ({ records: each(items(tuple(f, 1, "get answer")[0], ANSWER_RECORDS_MAX, "records"), decodeRecord) }),
  },
  inode: {
    encodeRequest: (r) => [namespace(r.ns), inode(r.ino), encodeWant(r.want)],
    decodeRequest: (f) => ({ ns: namespace(tuple(f, 3, "inode")[0]), ino: inode(f[1]), want: decodeWant(f[2]) }),
    encodeAnswer: (a) => [encodeInode(a.inode)],
    decodeAnswer: (f) => ({ inode: decodePresentInode(tuple(f, 1, "inode answer")[0]) }),
  },
  lookup: {
    encodeRequest: (r) => [namespace(r.ns), key(r.key), encodeWant(r.want), flag(r.leaseParent, "leaseParent")],
    decodeRequest: (f) => ({
      ns: namespace(tuple(f, 4, "lookup")[0]),
      key: key(f[1]),
      want: decodeWant(f[2]),
      leaseParent: flag(f[3], "leaseParent"),
    }),
    encodeAnswer: (a) => [encodeRecord(a.dentry), encodeInode(a.inode), flag(a.parentLeased, "parentLeased")],
    decodeAnswer: (f) => ({
      dentry: decodeRecord(tuple(f, 3, "lookup answer")[0]),
      inode: decodeInode(f[1]),
      parentLeased: flag(f[2], "parentLeased"),
    }),
  },
  list: {
    encodeRequest: (r) => [
      namespace(r.ns),
      inode(r.dir),
      after(r.after),
      integer(r.limit, 1, ANSWER_RECORDS_MAX, "limit"),
      flag(r.inodes, "inodes"),
      encodeWant(r.want),
      flag(r.leaseDir, "leaseDir"),
    ],
    decodeRequest: (f) => ({
      ns: namespace(tuple(f, 7, "list")[0]),
      dir: inode(f[1]),
      after: after(f[2]),
      limit: integer(f[3], 1, ANSWER_RECORDS_MAX, "limit"),
      inodes: flag(f[4], "inodes"),
      want: decodeWant(f[5]),
      leaseDir: flag(f[6], "leaseDir"),
    }),
    encodeAnswer: (a) => [
      each(items(a.entries, ANSWER_RECORDS_MAX, "entries"), (e) => [nameHash(e.hash), encodeRecord(e.dentry), encodeInode(e.inode)]),
      flag(a.more, "more"),
      encodeCounters(a.counters),
      flag(a.dirLeased, "dirLeased"),
    ],
    decodeAnswer: (f) => ({
      entries: each(items(tuple(f, 4, "list answer")[0], ANSWER_RECORDS_MAX, "entries"), (entry) => {
        const t = tuple(entry, 3, "entry");
        return { hash: nameHash(t[0]), dentry: decodePresentRecord(t[1]), inode: decodeInode(t[2]) };
      }),
      more: flag(f[1], "more"),
      counters: decodeCounters(f[2]),
      dirLeased: flag(f[3], "dirLeased"),
    }),
  },
  range: {
    encodeRequest: (r) => [namespace(r.ns), bound(r.from), bound(r.to), integer(r.limit, 1, ANSWER_RECORDS_MAX, "limit")],
    decodeRequest: (f) => ({
      ns: namespace(tuple(f, 4, "range")[0]),
      from: bound(f[1]),
      to: bound(f[2]),
      limit: integer(f[3], 1, ANSWER_RECORDS_MAX, "limit"),
    }),
    encodeAnswer: (a) => [
      each(items(a.records, ANSWER_RECORDS_MAX, "records"), (r) => [key(r.key), encodeRecord(r.record)]),
      flag(a.more, "more"),
    ],
    decodeAnswer: (f) => ({
      records: each(items(tuple(f, 2, "range answer")[0], ANSWER_RECORDS_MAX, "records"), (record) => {
        const t = tuple(record, 2, "record");
        return { key: key(t[0]), record: decodePresentRecord(t[1]) };
      }),
      more: flag(f[1], "more"),
    }),
  },
  commit: {
    encodeRequest: (r) => [namespace(r.ns), encodeDelta(r.delta)],
    decodeRequest: (f) => ({ ns: namespace(tuple(f, 2, "commit")[0]), delta: decodeDelta(f[1]) }),
    encodeAnswer: encodeCommitResult,
    decodeAnswer: decodeCommitResult,
  },
  sync: {
    encodeRequest: (r) => [namespace(r.ns)],
    decodeRequest: (f) => ({ ns: namespace(tuple(f, 1, "sync")[0]) }),
    encodeAnswer: (a) => [count(a.seq, "seq")],
    decodeAnswer: (f) => ({ seq: count(tuple(f, 1, "sync answer")[0], "seq") }),
  },
  leaseRelease: {
    encodeRequest: encodeInodes,
    decodeRequest: decodeInodes,
    encodeAnswer: noFields.encode,
    decodeAnswer: noFields.decode,
  },
  recall: { encodeRequest: encodeInodes, decodeRequest: decodeInodes, encodeAnswer: noFields.encode, decodeAnswer: noFields.decode },
  chunkPut: {
    encodeRequest: (r) => [chunkId(r.id)],
    decodeRequest: (f) => ({ id: chunkId(tuple(f, 1, "chunkPut")[0]) }),
    encodeAnswer: (a) => [flag(a.existed, "existed")],
    decodeAnswer: (f) => ({ existed: flag(tuple(f, 1, "chunkPut answer")[0], "existed") }),
  },
  chunkRelease: {
    encodeRequest: (r) => [each(items(r.ids, CHUNK_RELEASE_MAX, "chunk ids"), chunkId)],
    decodeRequest: (f) => ({ ids: each(items(tuple(f, 1, "chunkRelease")[0], CHUNK_RELEASE_MAX, "chunk ids"), chunkId) }),
    encodeAnswer: noFields.encode,
    decodeAnswer: noFields.decode,
  },
  chunkGet: {
    encodeRequest: (r) => [
      chunkId(r.id),
      integer(r.offset, 0, SEALED_CHUNK_MAX_BYTES, "offset"),
      integer(r.length, 1, SEALED_CHUNK_MAX_BYTES, "length"),
    ],
    decodeRequest: (f) => ({
      id: chunkId(tuple(f, 3, "chunkGet")[0]),
      offset: integer(f[1], 0, SEALED_CHUNK_MAX_BYTES, "offset"),
      length: integer(f[2], 1, SEALED_CHUNK_MAX_BYTES, "length"),
    }),
    encodeAnswer: (a) => [integer(a.totalBytes, 0, SEALED_CHUNK_MAX_BYTES, "totalBytes")],
    decodeAnswer: (f) => ({ totalBytes: integer(tuple(f, 1, "chunkGet answer")[0], 0, SEALED_CHUNK_MAX_BYTES, "totalBytes") }),
  },
  discover: discoverCodec,
  rdmaOpen: rdmaOpenCodec,
  rdmaProbe: rdmaProbeCodec,
  rdmaPut: {
    ...rdmaPutCodec,
    encodeAnswer: (a) => [flag(a.existed, "existed")],
    decodeAnswer: (f) => ({ existed: flag(tuple(f, 1, "rdmaPut answer")[0], "existed") }),
  },
  rdmaGet: rdmaGetCodec,
};

function role(value: unknown): "meta" | "data" {
  if (value !== "meta" && value !== "data") throw new ProtocolError("role: expected meta or data");
  return value;
}

/** A name, or "": none. */
function workload(value: unknown): string {
  if (value === "" || (typeof value === "string" && WORKLOAD_NAME_PATTERN.test(value))) return value;
  throw new ProtocolError(`workload: expected a name like ${WORKLOAD_NAME_PATTERN}`);
}

function nameHash(value: unknown): Uint8Array {
  return bytes(value, NAME_HASH_BYTES, NAME_HASH_BYTES, "name hash");
}

/** A name hash, or nothing: from the start. */
function after(value: unknown): Uint8Array {
  const position = bytes(value, 0, NAME_HASH_BYTES, "after");
  if (position.length !== 0 && position.length !== NAME_HASH_BYTES) throw new ProtocolError(`after: ${position.length} bytes`);
  return position;
}

/** A record key, or nothing: no bound. */
function bound(value: unknown): Uint8Array {
  return bytes(value, 0, RECORD_KEY_MAX_BYTES, "range bound");
}

function encodeKeyEpoch(k: { epoch: number; wrapped: Uint8Array }): unknown[] {
  return [count(k.epoch, "epoch"), bytes(k.wrapped, 1, WRAPPED_KEY_MAX_BYTES, "wrapped key")];
}

function decodeKeyEpoch(value: unknown): { epoch: number; wrapped: Uint8Array } {
  const t = tuple(value, 2, "key");
  return { epoch: count(t[0], "epoch"), wrapped: bytes(t[1], 1, WRAPPED_KEY_MAX_BYTES, "wrapped key") };
}

function encodeInodes(r: { ns: string; inos: number[] }): unknown[] {
  return [namespace(r.ns), each(items(r.inos, LEASE_INOS_MAX, "inode numbers"), inode)];
}

function decodeInodes(f: unknown[]): { ns: string; inos: number[] } {
  return { ns: namespace(tuple(f, 2, "inode numbers")[0]), inos: each(items(f[1], LEASE_INOS_MAX, "inode numbers"), inode) };
}

/** A field that breaks a limit is the caller's mistake on this side of the wire. */
function pack(op: OpName, encode: () => unknown[]): Uint8Array {
  try {
    return packMessage(encode());
  } catch (error) {
    throw error instanceof ProtocolError ? new RangeError(`${op}: ${error.message}`) : error;
  }
}

/**
 * A whole request, ready to send: the parts of `body` are in the result uncopied.
 * @throws RangeError when a field or the body breaks a limit
 */
export function encodeRequestFrame<O extends OpName>(
  op: O,
  requestId: number,
  request: RequestOf<O>,
  body?: readonly Uint8Array[],
): Uint8Array[] {
  return finishFrame(
    pack(op, () => codecs[op].encodeRequest(request)),
    op,
    0,
    requestId,
    body,
  );
}

/** The answer to a request, likewise. */
export function encodeAnswerFrame<O extends OpName>(
  op: O,
  requestId: number,
  answer: AnswerOf<O>,
  body?: readonly Uint8Array[],
): Uint8Array[] {
  return finishFrame(
    pack(op, () => codecs[op].encodeAnswer(answer)),
    op,
    FLAG_ANSWER,
    requestId,
    body,
  );
}

/** An answer that says why there is none. */
export function encodeErrorFrame(op: OpName, requestId: number, code: NodeErrorCode, message: string): Uint8Array[] {
  return finishFrame(packMessage([code, message.slice(0, ERROR_TEXT_MAX_LENGTH)]), op, FLAG_ANSWER | FLAG_ERROR, requestId, undefined);
}

/**
 * The fields of a request. Byte strings share the memory of `header`: who keeps one for long copies it.
 * @throws ProtocolError
 */
export function decodeRequest<O extends OpName>(op: O, header: Uint8Array): RequestOf<O> {
  return codecs[op].decodeRequest(unpackMessage(header));
}

/** The fields of an answer, likewise. */
export function decodeAnswer<O extends OpName>(op: O, header: Uint8Array): AnswerOf<O> {
  return codecs[op].decodeAnswer(unpackMessage(header));
}

/** What an error answer says. */
export function decodeError(header: Uint8Array): NodeError {
  const t = tuple(unpackMessage(header), 2, "error");
  const code = t[0];
  const message = text(t[1], ERROR_TEXT_MAX_LENGTH, "error text");
  if (!(NODE_ERRORS as readonly unknown[]).includes(code)) throw new ProtocolError("error: unknown code");
  return new NodeError(code as NodeErrorCode, message);
}
