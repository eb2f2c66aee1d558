/** What `kiseki policy` does; loaded only for it. */
import { existsSync } from "node:fs";
import { join, resolve } from "node:path";
import { ALL_NAMESPACES } from "../../config/mount-config.ts";
import { describeEffective, formatPolicyValue, parsePolicyKey, parsePolicyWords } from "../../config/policy-values.ts";
import { DataFolder } from "../../node/data-folder.ts";
import { levelPath, levelsDownTo, type PolicyDocument, type PolicyScope, policyOfLevels } from "../../node/policy-document.ts";
import { changePolicyFile, policyPathOf, withLevel } from "../../node/policy-file.ts";
import { readPolicyDocument } from "../../node/policy-store.ts";
import { CommandError, ExitStatus } from "../../process/failure.ts";
import { TransportError } from "../../protocol/errors.ts";
import { NAMESPACE_NAME_PATTERN, TENANT_NAME_PATTERN, WORKLOAD_NAME_PATTERN } from "../../protocol/limits.ts";
import {
  clusterPolicy,
  DEFAULT_POLICY,
  type EffectivePolicy,
  narrow,
  POLICY_KEYS,
  type PolicyKey,
  type PolicyLevel,
  widenings,
} from "../../protocol/policy.ts";
import { withNode } from "../shared/with-node.ts";
import type { LevelOptions, PolicyOptions, ShowEffectiveOptions } from "./options.ts";

/** A node of before policies closes the connection instead of answering. */
const POLICY_TIMEOUT_MS = 5_000;

function checkName(option: string, name: string | undefined, pattern: RegExp): string | null {
  if (name === undefined) return null;
  if (pattern.test(name) && (option !== "--namespace" || name !== ALL_NAMESPACES)) return name;
  throw new CommandError(ExitStatus.usage, `${option} ${name}: not a name; use 1 to 64 letters and digits, with ".", "_", "-" inside`);
}

/** @throws CommandError where a name is none, or the level above it is missing */
function scopeOf(options: LevelOptions): PolicyScope {
  const tenant = checkName("--tenant", options.tenant, TENANT_NAME_PATTERN);
  const namespace = checkName("--namespace", options.namespace, NAMESPACE_NAME_PATTERN);
  const workload = checkName("--workload", options.workload, WORKLOAD_NAME_PATTERN);
  if (namespace !== null && tenant === null) throw new CommandError(ExitStatus.usage, "--namespace needs --tenant: whose namespace?");
  if (workload !== null && namespace === null) throw new CommandError(ExitStatus.usage, "--workload needs --tenant and --namespace");
  return { tenant, namespace, workload };
}

/** "cluster", "acme", "acme/default". */
function nameOf(scope: PolicyScope): string {
  return scope.tenant === null ? "cluster" : levelPath(scope).slice(1);
}

function said(level: PolicyLevel): [PolicyKey, string][] {
  return POLICY_KEYS.flatMap((key) => (level[key] === undefined ? [] : [[key, formatPolicyValue(key, level[key])] as [PolicyKey, string]]));
}

/** @throws CommandError where `change` asks for more than the levels above `scope` give */
function checkChange(document: PolicyDocument, scope: PolicyScope, change: PolicyLevel): void {
  const above = levelsDownTo(scope).slice(0, -1);
  const level = { ...document.levels[levelPath(scope)], ...change };
  const upper = above.length === 0 ? null : policyOfLevels(document, above);
  const wide = upper === null ? [] : widenings(upper, change);
  if (upper !== null && wide.length > 0) {
    const texts = said(change).flatMap(([key, text]) => (wide.includes(key) ? [wideText(document, above, upper, key, text)] : []));
    throw new CommandError(ExitStatus.failure, `${texts.join("; ")}: a level may only narrow those above it`);
  }
  const result = upper === null ? clusterPolicy(level) : narrow(upper, level);
  if ((change.mode !== undefined || change.allowed_modes !== undefined) && level.mode !== undefined) {
    if (!result.allowed_modes.includes(level.mode)) {
      const allowed = formatPolicyValue("allowed_modes", result.allowed_modes);
      throw new CommandError(ExitStatus.failure, `mode=${level.mode} is not among allowed_modes=${allowed}; set both, so that they agree`);
    }
  }
}

function wideText(document: PolicyDocument, above: PolicyScope[], upper: EffectivePolicy, key: PolicyKey, text: string): string {
  const shown = key === "mode" ? "allowed_modes" : key;
  return `${key}=${text} is wider than ${shown}=${describeEffective(upper, shown)} (${originsOf(document, above)[shown]})`;
}

/** By key: the name of the level that decides it, "default" where none does. */
function originsOf(document: PolicyDocument, levels: readonly PolicyScope[]): Record<PolicyKey, string> {
  const origins = Object.fromEntries(POLICY_KEYS.map((key) => [key, "default"])) as Record<PolicyKey, string>;
  let above = DEFAULT_POLICY;
  for (const [depth, scope] of levels.entries()) {
    const policy = policyOfLevels(document, levels.slice(0, depth + 1));
    const own = depth === 0 ? document.levels[levelPath(scope)] : undefined;
    for (const key of POLICY_KEYS) if (own?.[key] !== undefined || String(policy[key]) !== String(above[key])) origins[key] = nameOf(scope);
    above = policy;
  }
  return origins;
}

/** A policy for names that are not there yet is no mistake, but a slip of the pen looks the same. */
function warnOfUnknown(dataDir: string, { tenant, namespace }: PolicyScope): void {
  if (tenant === null) return;
  const folder = new DataFolder(dataDir);
  const path = join(folder.tenants, tenant);
  const issued = existsSync(join(folder.pki, "tenants", `${tenant}.json`));
  if (!existsSync(path) && !issued) process.stderr.write(`kiseki: note: no tenant ${tenant} has been here yet\n`);
  else if (namespace !== null && existsSync(path) && !existsSync(join(path, "namespaces", namespace))) {
    process.stderr.write(`kiseki: note: tenant ${tenant} has no namespace ${namespace} yet\n`);
  }
}

/** @throws CommandError, ConfigError */
export async function setPolicyCommand(words: readonly string[], options: PolicyOptions): Promise<void> {
  const scope = scopeOf(options);
  const change = parsePolicyWords(words);
  const dataDir = resolve(options.dataDir);
  await changePolicyFile(dataDir, (document) => {
    checkChange(document, scope, change);
    return withLevel(document, scope, { ...document.levels[levelPath(scope)], ...change });
  });
  warnOfUnknown(dataDir, scope);
}

/** @throws CommandError, ConfigError */
export async function unsetPolicyCommand(words: readonly string[], options: PolicyOptions): Promise<void> {
  const scope = scopeOf(options);
  const keys = words.map(parsePolicyKey);
  await changePolicyFile(resolve(options.dataDir), (document) => {
    const level = { ...document.levels[levelPath(scope)] };
    for (const key of keys) delete level[key];
    return withLevel(document, scope, level);
  });
}

/** @throws CommandError */
export function getPolicyCommand(options: PolicyOptions): void {
  const scope = scopeOf(options);
  const { levels } = readPolicyDocument(policyPathOf(resolve(options.dataDir)));
  const path = levelPath(scope);
  const chosen = scope.tenant === null ? levels : { [path]: levels[path] ?? {} };
  if (options.json === true) {
    process.stdout.write(`${JSON.stringify(chosen)}\n`);
    return;
  }
  // Not for a program that reads what is set.
  if (Object.values(chosen).every((values) => said(values).length === 0))
    process.stderr.write(
      `kiseki: nothing is set${scope.tenant === null ? "" : " at this level"}; what holds all the same: kiseki policy show-effective\n`,
    );
  for (const [level, values] of Object.entries(chosen)) {
    for (const [key, text] of said(values)) process.stdout.write(`${level === "/" ? "cluster" : level.slice(1)}\t${key}=${text}\n`);
  }
}

function print(policy: EffectivePolicy, origins: Record<PolicyKey, string> | null, json: boolean | undefined): void {
  if (json === true) {
    process.stdout.write(`${JSON.stringify(origins === null ? { policy } : { policy, origins })}\n`);
    return;
  }
  const rows = POLICY_KEYS.map((key) => [key, describeEffective(policy, key), origins === null ? "" : `from: ${origins[key]}`] as const);
  const width = (column: 0 | 1) => Math.max(...rows.map((row) => row[column].length));
  for (const [key, value, origin] of rows) {
    process.stdout.write(`${`${key.padEnd(width(0))}  ${value.padEnd(width(1))}  ${origin}`.trimEnd()}\n`);
  }
}

/** @throws CommandError, CredentialsError, TransportError, NodeError */
export async function showEffectiveCommand(options: ShowEffectiveOptions): Promise<void> {
  if (options.dataDir !== undefined) {
    const document = readPolicyDocument(policyPathOf(resolve(options.dataDir)));
    const levels = levelsDownTo(scopeOf(options));
    print(policyOfLevels(document, levels), originsOf(document, levels), options.json);
    return;
  }
  const { dataAddr = process.env.KISEKI_DATA_ADDR, namespace = process.env.KISEKI_NAMESPACE || "default" } = options;
  if (dataAddr === undefined || dataAddr === "") {
    throw new CommandError(
      ExitStatus.usage,
      "give --data-dir DIR on the storage node's host, or --data-addr HOST:PORT and --credentials FILE",
    );
  }
  const namespaces = namespace === ALL_NAMESPACES ? [] : namespace.split(",");
  for (const name of namespaces) checkName("--namespace", name, NAMESPACE_NAME_PATTERN);
  const workload = checkName("--workload", options.workload ?? (process.env.KISEKI_WORKLOAD || undefined), WORKLOAD_NAME_PATTERN) ?? "";
  const credentials = options.credentials ?? (process.env.KISEKI_CREDENTIALS || undefined);
  const tenant = options.tenant ?? (process.env.KISEKI_TENANT || undefined);
  const node = {
    dataAddr,
    ...(credentials === undefined ? {} : { credentials }),
    ...(tenant === undefined ? {} : { tenant }),
    ...(options.passphraseFile === undefined ? {} : { passphraseFile: options.passphraseFile }),
  };
  const { answer } = await withNode(node, async (client) => {
    try {
      return await client.call("policyGet", { namespaces, workload }, { timeoutMs: POLICY_TIMEOUT_MS });
    } catch (error) {
      if (!(error instanceof TransportError && error.kind === "timeout")) throw error;
      throw new CommandError(ExitStatus.unreachable, "the storage node does not tell its policy: is it an older version of kiseki?", {
        cause: error,
      });
    }
  });
  print(answer.policy, null, options.json);
}
