/** Mounts that lose their node, and how long calls on them take. */
import { KISEKI, runOk, TestMount, TestNode } from "./harness.ts";

/** How long a call on cached data may take, and one that has to fail at once: the request timeout is 30 s. */
export const AT_ONCE_MS = 2_000;
export const META_TTL_MS = 200;

export async function nodeWithPolicy(...policy: string[]): Promise<TestNode> {
  const node = await TestNode.start();
  await runOk(KISEKI, ["policy", "set", ...policy, "--data-dir", node.dataDir]);
  return node;
}

export async function mountOf(node: TestNode): Promise<TestMount> {
  return await TestMount.mount(node, { args: ["-o", `meta_ttl_ms=${META_TTL_MS}`] });
}

export async function timed<T>(work: Promise<T>): Promise<{ result: T; tookMs: number }> {
  const startedAt = performance.now();
  const result = await work;
  return { result, tookMs: performance.now() - startedAt };
}
