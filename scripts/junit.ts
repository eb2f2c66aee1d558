/** Reads the totals of a JUnit XML report as `bun test --reporter=junit` writes it. */

/** Counts of the root element, or null when `xml` holds no report. Todo tests count as skipped. */
export function parseJunit(xml: string): { passed: number; failed: number; skipped: number } | null {
  const root = /<testsuites\b[^>]*>/.exec(xml)?.[0];
  if (root === undefined) return null;
  const count = (name: string) => Number(new RegExp(`\\b${name}="(\\d+)"`).exec(root)?.[1] ?? 0);
  const failed = count("failures") + count("errors");
  const skipped = count("skipped");
  return { passed: count("tests") - failed - skipped, failed, skipped };
}
