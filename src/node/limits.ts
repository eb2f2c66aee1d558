/**
 * What tenants may store, in DIR/limits.json: { "<tenant>": { bytes, inodes, namespaces } }, each optional. `kiseki tenant limit` writes it beside a
 * running node, which looks at it again when it has changed. A file that can't be read changes nothing: the limits before hold.
 */
import { readFileSync, renameSync, statSync, writeFileSync } from "node:fs";
import { z } from "zod";
import { TENANT_NAME_PATTERN } from "../protocol/limits.ts";

const count = z.int().nonnegative();
const limitsSchema = z.strictObject({ bytes: count.optional(), inodes: count.optional(), namespaces: count.optional() });
const fileSchema = z.record(z.string().regex(TENANT_NAME_PATTERN), limitsSchema);

export type TenantLimits = z.infer<typeof limitsSchema>;

/** The file is looked at this often at most. */
const LOOK_MS = 500;
const NONE: TenantLimits = {};

/** @throws Error, one line: damaged */
export function readLimits(path: string): Record<string, TenantLimits> {
  let text: string;
  try {
    text = readFileSync(path, "utf8");
  } catch (error) {
    if (error instanceof Error && "code" in error && error.code === "ENOENT") return {};
    throw error;
  }
  try {
    return fileSchema.parse(JSON.parse(text));
  } catch (error) {
    throw new Error(`${path}: damaged; correct the file by hand, or delete it to begin anew`, { cause: error });
  }
}

/** Changes one tenant's limits; null takes one away. @throws Error, one line, or the system's */
export function writeLimits(path: string, tenant: string, change: { [K in keyof TenantLimits]: number | null | undefined }): TenantLimits {
  const all = readLimits(path);
  const limits = { ...all[tenant] };
  for (const key of ["bytes", "inodes", "namespaces"] as const) {
    const value = change[key];
    if (value === null) delete limits[key];
    else if (value !== undefined) limits[key] = value;
  }
  if (Object.keys(limits).length === 0) delete all[tenant];
  else all[tenant] = limits;
  writeFileSync(`${path}.new`, `${JSON.stringify(all, null, 2)}\n`, { mode: 0o600, flush: true });
  renameSync(`${path}.new`, path);
  return limits;
}

export class LimitsStore {
  readonly #path: string;
  readonly #onError: (error: unknown) => void;
  #limits: Record<string, TenantLimits> = {};
  #seen = "";
  #lookedMs = Number.NEGATIVE_INFINITY;

  constructor(path: string, onError: (error: unknown) => void) {
    this.#path = path;
    this.#onError = onError;
  }

  of(tenant: string): TenantLimits {
    this.#look();
    return this.#limits[tenant] ?? NONE;
  }

  #look(): void {
    const now = performance.now();
    if (now - this.#lookedMs < LOOK_MS) return;
    this.#lookedMs = now;
    const stats = statSync(this.#path, { throwIfNoEntry: false });
    const state = stats === undefined ? "none" : `${stats.ino} ${stats.size} ${stats.mtimeMs}`;
    if (state === this.#seen) return;
    this.#seen = state;
    try {
      this.#limits = readLimits(this.#path);
    } catch (error) {
      this.#onError(error);
    }
  }
}
