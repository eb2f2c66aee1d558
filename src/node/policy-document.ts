/**
 * What an operator has set, as it stands in DIR/policy.json. Each level is an entry by its path:
 *
 *     { "version": 1, "levels": { "/": {cluster}, "/acme": {organization}, "/acme/default": {project}, "/acme/default/train": {workload} } }
 */
import { z } from "zod";
import { NAMESPACE_NAME_PATTERN, TENANT_NAME_PATTERN, WORKLOAD_NAME_PATTERN } from "../protocol/limits.ts";
import {
  CACHE_MODES,
  clusterPolicy,
  type EffectivePolicy,
  intersect,
  narrow,
  POLICY_RANGES,
  type PolicyLevel,
  type PolicyNumber,
} from "../protocol/policy.ts";

/** Names of one level: null from the first one down that is not meant. All null: the cluster. */
export interface PolicyScope {
  readonly tenant: string | null;
  readonly namespace: string | null;
  readonly workload: string | null;
}
const CLUSTER_SCOPE: PolicyScope = { tenant: null, namespace: null, workload: null };

const number = (key: PolicyNumber) => z.int().min(POLICY_RANGES[key].min).max(POLICY_RANGES[key].max).optional();

const levelSchema = z.strictObject({
  cache_enabled: z.boolean().optional(),
  allowed_modes: z.array(z.enum(CACHE_MODES)).optional(),
  max_cache_bytes: number("max_cache_bytes"),
  max_node_cache_bytes: number("max_node_cache_bytes"),
  metadata_ttl_ms: number("metadata_ttl_ms"),
  max_disconnect_seconds: number("max_disconnect_seconds"),
  key_health_interval_ms: number("key_health_interval_ms"),
  staging_enabled: z.boolean().optional(),
  mode: z.enum(CACHE_MODES).optional(),
});

function isLevelPath(path: string): boolean {
  const [root, ...names] = path === "/" ? [""] : path.split("/");
  const patterns = [TENANT_NAME_PATTERN, NAMESPACE_NAME_PATTERN, WORKLOAD_NAME_PATTERN];
  return root === "" && names.length <= patterns.length && names.every((name, i) => patterns[i]?.test(name) === true);
}

const documentSchema = z.strictObject({
  version: z.literal(1),
  levels: z.record(z.string().refine(isLevelPath, "not the path of a level"), levelSchema),
});
export type PolicyDocument = z.infer<typeof documentSchema>;

export const EMPTY_DOCUMENT: PolicyDocument = { version: 1, levels: {} };

/** @throws Error that says where the text is wrong */
export function parsePolicyDocument(text: string): PolicyDocument {
  const result = documentSchema.safeParse(JSON.parse(text));
  if (result.success) return result.data;
  const issue = result.error.issues[0];
  throw new Error(`${issue?.path.join(" ") ?? ""}: ${issue?.message ?? "damaged"}`);
}

/** "/", "/acme", "/acme/default", "/acme/default/train". */
export function levelPath({ tenant, namespace, workload }: PolicyScope): string {
  return `/${[tenant, namespace, workload].filter((name) => name !== null).join("/")}`;
}

/** The levels from the cluster down to `scope`, which is the last one. */
export function levelsDownTo(scope: PolicyScope): PolicyScope[] {
  const { tenant, namespace, workload } = scope;
  const levels = [CLUSTER_SCOPE];
  if (tenant !== null) levels.push({ ...CLUSTER_SCOPE, tenant });
  if (namespace !== null) levels.push({ tenant, namespace, workload: null });
  if (workload !== null) levels.push(scope);
  return levels;
}

/** What these levels come to; the first is the cluster's. */
export function policyOfLevels(document: PolicyDocument, levels: readonly PolicyScope[]): EffectivePolicy {
  const [cluster = {}, ...below] = levels.map((level): PolicyLevel => document.levels[levelPath(level)] ?? {});
  return below.reduce(narrow, clusterPolicy(cluster));
}

/** What applies to a session of these namespaces; of none: what the tenant's level comes to. */
export function policyOfSession(
  document: PolicyDocument,
  tenant: string,
  namespaces: readonly string[],
  workload: string | null,
): EffectivePolicy {
  const organization = { ...CLUSTER_SCOPE, tenant };
  const policies = namespaces.map((namespace) => policyOfLevels(document, levelsDownTo({ tenant, namespace, workload })));
  return policies.length === 0 ? policyOfLevels(document, levelsDownTo(organization)) : policies.reduce(intersect);
}
