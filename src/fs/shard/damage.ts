/**
 * Records that can't be read: altered on the node's disk, or by the node. Each costs its own entry, region or attribute and no more. This file
 * has what stands for it where something must: a name by which a folder lists an entry that lost its name, so that it can be removed; attributes
 * for a folder that lost its own, so that what is in it can be reached.
 */
import type { FileId } from "../../crypto/file-id.ts";
import { IntegrityError } from "../../crypto/integrity-error.ts";
import { readU32 } from "../../protocol/big-endian.ts";
import { INO_MAX } from "../../protocol/limits.ts";
import { NAME_HASH_BYTES } from "../../protocol/record-keys.ts";
import { FsError } from "../posix/errno.ts";
import type { Name } from "../posix/vfs.ts";
import { FileType, type InodeAttributes, NO_NAMES, NO_REGIONS, RecordFormatError } from "../records/inode-record.ts";

export interface DamageLog {
  error(fields: object, message: string): void;
}

/** Damaged records that are remembered as told, so that each is told once; beyond it all may be told again. */
const TOLD_MAX = 4_096;
/** Names that begin so, with the hash of the lost name behind, belong to entries that can't be read; nobody may give one. */
const STAND_IN_PREFIX = ".kiseki-damaged-";
const STAND_IN_PATTERN = new RegExp(`^\\${STAND_IN_PREFIX}[0-9a-f]{${2 * NAME_HASH_BYTES}}$`);
/** Their inode numbers, which exist only here: above all that a node grants before it has granted 10^12. */
const STAND_IN_INO_MIN = INO_MAX - 2 ** 32;
const PRIVATE_FOLDER = 0o700;

/** What others say of an inode whose own attributes can't be read: an entry that leads to it, or an earlier answer. */
export interface KnownOfInode {
  /** S_IFMT. */
  readonly type: number;
  /** Inode number of the folder that it is in. */
  readonly parent: number;
  readonly fileId: FileId;
}

/** The name by which an entry is listed whose own can't be read. */
export function standInName(hash: Uint8Array): Name {
  return STAND_IN_PREFIX + hash.toHex();
}

/** The hash in a name that standInName made; null for other names. */
export function hashOfStandIn(name: Name): Uint8Array | null {
  if (!name.startsWith(STAND_IN_PREFIX) || !STAND_IN_PATTERN.test(name)) return null;
  return Uint8Array.fromHex(name.slice(STAND_IN_PREFIX.length));
}

/** An inode number for an entry whose own can't be believed. */
export function standInNumber(hash: Uint8Array): number {
  return STAND_IN_INO_MIN + readU32(hash, 0);
}

export function isStandInNumber(number: number): boolean {
  return number >= STAND_IN_INO_MIN;
}

/** What is shown where attributes can't be read: of a folder, so that it can be entered; else only its type counts. */
export function standInAttributes({ type, parent, fileId }: KnownOfInode): InodeAttributes {
  const isFolder = type === FileType.DIRECTORY;
  return {
    fileId,
    mode: type | (isFolder ? PRIVATE_FOLDER : 0),
    uid: 0,
    gid: 0,
    rdev: 0,
    nlink: 1,
    size: 0,
    allocated: 0,
    parent: isFolder ? parent : 0,
    generation: 0,
    mtimeBumps: 0,
    nameSum: NO_NAMES,
    xattrSum: "",
    flags: 0,
    regionGenerations: NO_REGIONS,
    atimeSec: 0,
    atimeNsec: 0,
    mtimeSec: 0,
    mtimeNsec: 0,
    ctimeSec: 0,
    ctimeNsec: 0,
    target: "",
  };
}

/** What those get who need what was lost. Without a cause: the log has named that already, once. */
export class DamageError extends FsError {
  constructor(what: string) {
    super("EIO", `${what} can't be read`);
  }
}

/** Says once of each damaged record what was lost. */
export class DamageReport {
  readonly #namespace: string;
  readonly #log: DamageLog | null;
  readonly #told = new Set<string>();

  constructor(namespace: string, log: DamageLog | null) {
    this.#namespace = namespace;
    this.#log = log;
  }

  /** What `open` makes of the record under `key`; null when it can't be read. */
  attempt<T>(what: string, key: Uint8Array, open: () => T): T | null {
    try {
      return open();
    } catch (error) {
      if (!(error instanceof IntegrityError || error instanceof RecordFormatError)) throw error;
      const record = key.toHex();
      if (this.#told.has(record)) return null;
      if (this.#told.size >= TOLD_MAX) this.#told.clear();
      this.#told.add(record);
      this.#log?.error({ namespace: this.#namespace, record, cause: error.message }, `damaged on the storage node: ${what} can't be read`);
      return null;
    }
  }
}
