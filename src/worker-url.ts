/**
 * Where a Worker's file is. Inside the compiled binary all modules are one file at the root, and further entry points keep their path below
 * src/ (scripts/build.ts names them, and passes --root src); this file stands in src/ itself, so that one spelling fits both.
 */

/** The URL of a Worker's file, from its path below src/. */
export function workerUrl(path: string): string {
  return new URL(`./${path}`, import.meta.url).href;
}
