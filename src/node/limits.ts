/**
 * What tenants may store, in DIR/limits.json: { "<tenant>": { bytes, inodes, namespaces } }, each optional. `kiseki tenant limit` writes it beside a
 * running node, which looks at it again when it has changed. A file that can't be read changes nothing: the limits before hold.
 */
import { readFileSync, statSync } from "node:fs";
import { z } from "zod";
import { TENANT_NAME_PATTERN } from "../protocol/limits.ts";
import { COUNTED, type RequestOf } from "../protocol/messages.ts";
import { changeFile } from "./change-file.ts";

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

/** Of each: null takes it away, undefined leaves it as it is. */
export type LimitsChange = RequestOf<"tenantLimit">;

/** Changes one tenant's limits. @throws Error, one line, or the system's */
export async function changeLimits(path: string, tenant: string, change: LimitsChange): Promise<TenantLimits> {
  let limits: TenantLimits = {};
  await changeFile(path, () => {
    const all = readLimits(path);
    limits = { ...all[tenant] };
    for (const what of COUNTED) {
      const value = change[what];
      if (value === null) delete limits[what];
      else if (value !== undefined) limits[what] = value;
    }
    if (Object.keys(limits).length === 0) delete all[tenant];
    else all[tenant] = limits;
    return `${JSON.stringify(all, null, 2)}\n`;
  });
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

  /** Written and in force when it resolves. @throws as changeLimits */
  async change(tenant: string, change: LimitsChange): Promise<void> {
    await changeLimits(this.#path, tenant, change);
    this.#lookedMs = Number.NEGATIVE_INFINITY;
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
