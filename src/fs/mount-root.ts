/** The root folder of a mount that shows several namespaces: their names, each leading to the root of its volume. Nothing is stored. */
import { NAMESPACE_NAME_PATTERN, NAMESPACES_MAX, ROOT_INO } from "../protocol/limits.ts";
import { NAMESPACE_SPAN } from "./inodes/namespace.ts";
import { now } from "./posix/clock.ts";
import { FsError } from "./posix/errno.ts";
import type { Attr, FillEntry, Name } from "./posix/vfs.ts";
import { FileType } from "./records/inode-record.ts";
import type { Volume } from "./volume.ts";

/** Opens a namespace as volume number `index`. */
export type OpenVolume = (name: string, index: number) => Promise<Volume>;

export interface MountRootOptions {
  /** The names to show now: a fixed list, or what the node has. */
  names: () => Promise<readonly string[]>;
  open: OpenVolume;
  owner: { uid: number; gid: number };
}

const PERMISSIONS = 0o755;
const COOKIE_FIRST_NAME = 3;

export class MountRoot {
  readonly #options: MountRootOptions;
  /** At their index; index 0 is the mount's root itself. */
  readonly #volumes: (Volume | undefined)[] = [undefined];
  readonly #indexes = new Map<string, number>();
  readonly #opening = new Map<string, Promise<Volume>>();
  readonly #madeAt = now();

  constructor(options: MountRootOptions) {
    this.#options = options;
  }

  /** Volumes that are open. */
  get volumes(): Volume[] {
    return this.#volumes.filter((volume) => volume !== undefined);
  }

  anyVolume(): Volume | undefined {
    return this.volumes[0];
  }

  /** The volume that an inode number of the mount belongs to. */
  volume(ino: number): Volume {
    const volume = this.#volumes[Math.floor(ino / NAMESPACE_SPAN)];
    if (volume === undefined) throw new FsError("ESTALE");
    return volume;
  }

  attr(): Attr {
    const { sec, nsec } = this.#madeAt;
    return {
      ino: ROOT_INO,
      mode: FileType.DIRECTORY | PERMISSIONS,
      nlink: 2 + this.#indexes.size,
      uid: this.#options.owner.uid,
      gid: this.#options.owner.gid,
      rdev: 0,
      size: 0,
      blocks: 0,
      atimeSec: sec,
      atimeNsec: nsec,
      mtimeSec: sec,
      mtimeNsec: nsec,
      ctimeSec: sec,
      ctimeNsec: nsec,
    };
  }

  async lookup(name: Name): Promise<Attr | null> {
    if (!NAMESPACE_NAME_PATTERN.test(name)) return null;
    if (!this.#indexes.has(name) && !(await this.#options.names()).includes(name)) return null;
    const { namespace } = await this.open(name);
    return await namespace.get(ROOT_INO);
  }

  /** The volume of a namespace, opened if need be. */
  open(name: string): Promise<Volume> {
    const index = this.#indexes.get(name);
    const open = index === undefined ? undefined : this.#volumes[index];
    if (open !== undefined) return Promise.resolve(open);
    let opening = this.#opening.get(name);
    if (opening === undefined) {
      opening = this.#open(name).finally(() => this.#opening.delete(name));
      this.#opening.set(name, opening);
    }
    return opening;
  }

  async #open(name: string): Promise<Volume> {
    if (this.#volumes.length > NAMESPACES_MAX) throw new FsError("ENOSPC", `more than ${NAMESPACES_MAX} namespaces in one mount`);
    const index = this.#volumes.length;
    this.#volumes.push(undefined);
    const volume = await this.#options.open(name, index);
    this.#volumes[index] = volume;
    this.#indexes.set(name, index);
    return volume;
  }

  async readdir(offset: number, fill: FillEntry): Promise<void> {
    if (offset < 1 && !fill(".", ROOT_INO, FileType.DIRECTORY, 1, null)) return;
    if (offset < 2 && !fill("..", ROOT_INO, FileType.DIRECTORY, 2, null)) return;
    const names = [...(await this.#options.names())].sort();
    for (let i = Math.max(0, offset - COOKIE_FIRST_NAME + 1); i < names.length; i++) {
      const name = names[i] as string;
      const { namespace } = await this.open(name);
      if (!fill(name, namespace.mountIno(ROOT_INO), FileType.DIRECTORY, COOKIE_FIRST_NAME + i, null)) return;
    }
  }
}
