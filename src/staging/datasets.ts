/** Which dataset a path means, and where its manifest stands. */
import { createHash } from "node:crypto";
import { existsSync, readdirSync, renameSync } from "node:fs";
import { join } from "node:path";
import { StagingError } from "../cache/disk/staging-error.ts";
import { zeroizeFiles } from "../cache/pool/zeroize.ts";
import { type DatasetName, Manifest } from "./manifest.ts";

const ID_HEX_DIGITS = 32;
const COMPLETE = ".manifest";
const NEXT = ".next";
const OLD = ".old";
/** Files that SQLite keeps beside a database. */
const BESIDE = ["", "-wal", "-shm", "-journal"];

/** A mount of one namespace shows its tree; one of several shows a folder for each. */
export type Namespaces = readonly string[] | "all";

function onlyNamespace(namespaces: Namespaces): string | null {
  const [only] = namespaces;
  return namespaces !== "all" && namespaces.length === 1 && only !== undefined ? only : null;
}

/** @throws StagingError not_found: a path above all namespaces */
export function datasetName(namespaces: Namespaces, path: string): DatasetName {
  const components = path.split("/").filter((name) => name !== "" && name !== ".");
  if (components.includes("..")) throw new StagingError("not_found", `${path}: ".." can't be in the path of a dataset`);
  const only = onlyNamespace(namespaces);
  const namespace = only ?? components[0];
  if (namespace === undefined) throw new StagingError("not_found", "/: several namespaces; give a path in one of them, such as /default");
  const rest = only === null ? components.slice(1) : components;
  return { namespace, path: `/${components.join("/")}`, inNamespace: `/${rest.join("/")}` };
}

/** The path of a dataset as this process shows it: another one may have staged it, in a namespace that is not to be seen here. */
export function shownPath(namespaces: Namespaces, { namespace, inNamespace }: DatasetName): string {
  if (onlyNamespace(namespaces) === namespace) return inNamespace;
  return inNamespace === "/" ? `/${namespace}` : `/${namespace}${inNamespace}`;
}

export function datasetId({ namespace, inNamespace }: DatasetName): string {
  return createHash("sha256").update(`${namespace}\0${inNamespace}`).digest("hex").slice(0, ID_HEX_DIGITS);
}

/** The manifests in a pool's `staging/`. */
export class ManifestFiles {
  readonly #path: string;

  constructor(path: string) {
    this.#path = path;
  }

  pathOf(id: string): string {
    return join(this.#path, id + COMPLETE);
  }

  nextPathOf(id: string): string {
    return join(this.#path, id + NEXT);
  }

  /** Ids of the datasets that there are, complete or not. */
  ids(): string[] {
    const ids = new Set<string>();
    for (const name of readdirSync(this.#path)) {
      for (const suffix of [COMPLETE, NEXT]) if (name.endsWith(suffix)) ids.add(name.slice(0, -suffix.length));
    }
    return [...ids];
  }

  hasNext(id: string): boolean {
    return existsSync(this.nextPathOf(id));
  }

  has(id: string): boolean {
    return existsSync(this.pathOf(id));
  }

  /** The finished manifest takes the place of the one before. Both are closed. */
  async putNext(id: string): Promise<void> {
    await this.#destroy(join(this.#path, id + OLD));
    if (this.has(id)) renameSync(this.pathOf(id), join(this.#path, id + OLD));
    renameSync(this.nextPathOf(id), this.pathOf(id));
    await this.#destroy(join(this.#path, id + OLD));
  }

  /** Ends what an earlier process had begun. */
  async recover(id: string): Promise<void> {
    await this.#destroy(join(this.#path, id + OLD));
    if (!this.hasNext(id)) return;
    const next = new Manifest(this.nextPathOf(id));
    const { isComplete } = next;
    next.close();
    if (isComplete) await this.putNext(id);
  }

  async destroy(id: string): Promise<void> {
    for (const suffix of [COMPLETE, NEXT, OLD]) await this.#destroy(join(this.#path, id + suffix));
  }

  async destroyComplete(id: string): Promise<void> {
    await this.#destroy(this.pathOf(id));
  }

  async destroyNext(id: string): Promise<void> {
    await this.#destroy(this.nextPathOf(id));
  }

  async #destroy(path: string): Promise<void> {
    await zeroizeFiles(BESIDE.map((suffix) => path + suffix).filter((file) => existsSync(file)));
  }
}
