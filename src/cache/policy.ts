/**
 * The cache policy at the client: asked for when a session starts, kept in the pool for one that starts without a node, and what a
 * mount's own choices come to under it. What a policy is: protocol/policy.ts.
 */
import { closeSync, fsyncSync, openSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import { formatSize } from "../config/units.ts";
import { NodeError } from "../protocol/errors.ts";
import type { AnswerOf, RequestOf } from "../protocol/messages.ts";
import {
  CACHE_MODES,
  type CacheMode,
  type EffectivePolicy,
  FALLBACK_POLICY,
  POLICY_RANGES,
  type PolicyNumber,
} from "../protocol/policy.ts";

/** A node of before this operation closes the connection instead of answering: a mount does not wait longer for that. */
const POLICY_TIMEOUT_MS = 3_000;

/** Of a pool: the policy of its last session. */
const POLICY_FILE = "policy.json";

/** Who asks: what the policy depends on, beside the tenant. */
export interface PolicySubject {
  readonly namespaces: readonly string[] | "all";
  /** null: none. */
  readonly workload: string | null;
}

/** Where a policy came from: the node, what the pool remembers of an earlier session, or nowhere. */
export type PolicyOrigin = "node" | "pool" | "fallback";

export interface OpenedPolicy {
  readonly policy: EffectivePolicy;
  readonly origin: PolicyOrigin;
}

/** The part of NodeClient (transport/node-client.ts) that is needed. */
export interface PolicyNode {
  readonly connected: boolean;
  call(op: "policyGet", request: RequestOf<"policyGet">, options: { timeoutMs: number }): Promise<{ answer: AnswerOf<"policyGet"> }>;
}

interface PolicyLogger {
  info(fields: object, message: string): void;
  warn(fields: object, message: string): void;
}

/**
 * The policy of a session that begins. `poolPath`: an adopted pool, whose last policy counts when no node tells one; null: none.
 * @throws NodeError "not_authorized", "key_revoked"
 */
export async function openPolicy(
  client: PolicyNode,
  subject: PolicySubject,
  poolPath: string | null,
  log: PolicyLogger,
): Promise<OpenedPolicy> {
  const stored = poolPath === null ? null : readStoredPolicy(poolPath);
  let why: unknown;
  try {
    // Not connected: a session that starts from its pool must not wait for a node.
    if (stored !== null && !client.connected) throw new Error("no node can be reached");
    const request = { namespaces: subject.namespaces === "all" ? [] : [...subject.namespaces], workload: subject.workload ?? "" };
    const { answer } = await client.call("policyGet", request, { timeoutMs: POLICY_TIMEOUT_MS });
    return { policy: answer.policy, origin: "node" };
  } catch (error) {
    // These end the mount: no policy would help it.
    if (error instanceof NodeError && (error.code === "not_authorized" || error.code === "key_revoked")) throw error;
    why = error;
  }
  if (stored !== null) {
    log.warn({ err: why }, "no node tells the cache policy: the one that the pool remembers is in force");
    return { policy: stored, origin: "pool" };
  }
  log.warn({ err: why }, "no node tells the cache policy: organic, at most 10 GB, 5 s are in force");
  return { policy: FALLBACK_POLICY, origin: "fallback" };
}

/** What a mount was asked for; null where it was not said. */
export interface CacheChoice {
  readonly cacheMode: CacheMode | null;
  readonly cacheL2MaxBytes: number | null;
  readonly metaTtlMs: number | null;
  readonly attrTimeoutMs: number | null;
  readonly entryTimeoutMs: number | null;
}

/** What a session does. */
export interface CacheSettings {
  readonly cacheMode: CacheMode;
  readonly cacheL2MaxBytes: number;
  readonly metaTtlMs: number;
  readonly attrTimeoutMs: number;
  readonly entryTimeoutMs: number;
}

/** An option that the policy did not grant as asked. */
export interface Clamp {
  /** As written after -o. */
  readonly option: "cache_mode" | "cache_l2_max" | "meta_ttl_ms" | "attr_timeout" | "entry_timeout";
  /** Sizes in bytes, times in milliseconds. */
  readonly asked: string | number;
  readonly taken: string | number;
}

/** The choices as far as the policy allows them; what was not chosen is as the policy says. */
export function clampChoice(policy: EffectivePolicy, choice: CacheChoice): { settings: CacheSettings; clamps: Clamp[] } {
  const clamps: Clamp[] = [];
  const atMost = (option: Clamp["option"], asked: number | null, limit: number, unasked = limit): number => {
    if (asked === null) return unasked;
    if (asked > limit) clamps.push({ option, asked, taken: limit });
    return Math.min(asked, limit);
  };
  const asked = choice.cacheMode;
  const granted = asked === null || (policy.cache_enabled ? policy.allowed_modes.includes(asked) : asked === "bypass");
  const cacheMode = granted && asked !== null ? asked : policy.mode;
  if (asked !== null && asked !== cacheMode) clamps.push({ option: "cache_mode", asked, taken: cacheMode });
  const cacheL2MaxBytes = cacheMode === "bypass" ? 0 : atMost("cache_l2_max", choice.cacheL2MaxBytes, policy.max_cache_bytes);
  const ttl = policy.metadata_ttl_ms;
  const metaTtlMs = atMost("meta_ttl_ms", choice.metaTtlMs, ttl);
  const settings = {
    cacheMode,
    cacheL2MaxBytes,
    metaTtlMs,
    // The kernel's copies of names and attributes are as old as ours may be.
    attrTimeoutMs: atMost("attr_timeout", choice.attrTimeoutMs, ttl, metaTtlMs),
    entryTimeoutMs: atMost("entry_timeout", choice.entryTimeoutMs, ttl, metaTtlMs),
  };
  return { settings, clamps };
}

/** A value as one could write it after -o. */
function written(option: Clamp["option"], value: string | number): string {
  if (typeof value === "string" || option === "meta_ttl_ms") return String(value);
  return option === "cache_l2_max" ? formatSize(value) : `${value / 1_000}`;
}

/** clampChoice, with a line in the log for each option that was cut down. */
export function applyPolicy({ policy, origin }: OpenedPolicy, choice: CacheChoice, log: PolicyLogger): CacheSettings {
  const { settings, clamps } = clampChoice(policy, choice);
  log.info({ policy, origin }, "cache policy");
  for (const clamp of clamps) {
    const { option, asked, taken } = clamp;
    log.warn({ ...clamp }, `the cache policy does not allow ${option}=${written(option, asked)}: taken ${written(option, taken)}`);
  }
  return settings;
}

const number = (key: PolicyNumber) => z.int().min(POLICY_RANGES[key].min).max(POLICY_RANGES[key].max);
const storedSchema = z.strictObject({
  cache_enabled: z.boolean(),
  allowed_modes: z.array(z.enum(CACHE_MODES)).max(CACHE_MODES.length),
  max_cache_bytes: number("max_cache_bytes"),
  max_node_cache_bytes: number("max_node_cache_bytes").nullable(),
  max_node_cache_percent: z.int().min(0).max(100).nullable(),
  metadata_ttl_ms: number("metadata_ttl_ms"),
  max_disconnect_seconds: number("max_disconnect_seconds"),
  key_health_interval_ms: number("key_health_interval_ms"),
  staging_enabled: z.boolean(),
  mode: z.enum(CACHE_MODES),
}) satisfies z.ZodType<EffectivePolicy>;

/** Makes a pool remember what the node has told, for a session that starts without one. What can't be written is logged. */
export function rememberPolicy(poolPath: string, { policy, origin }: OpenedPolicy, log: PolicyLogger): void {
  if (origin !== "node") return;
  try {
    storePolicy(poolPath, policy);
  } catch (error) {
    log.warn({ err: error }, "the pool can't remember the cache policy");
  }
}

/** Whole or not at all. @throws a system error (ENOSPC, EROFS, ...) */
function storePolicy(poolPath: string, policy: EffectivePolicy): void {
  const path = join(poolPath, POLICY_FILE);
  const aside = `${path}.new`;
  const fd = openSync(aside, "w", 0o600);
  try {
    writeFileSync(fd, JSON.stringify(policy));
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
  renameSync(aside, path);
}

/** What storePolicy wrote; null where there is none that can be read. */
function readStoredPolicy(poolPath: string): EffectivePolicy | null {
  try {
    return storedSchema.parse(JSON.parse(readFileSync(join(poolPath, POLICY_FILE), "utf8")));
  } catch {
    return null;
  }
}
