/** docs/SEMANTICS.md: every promise names a test that holds it, and every test that it names is there. */
import { expect, test } from "bun:test";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";

const REPO = join(import.meta.dir, "..");
const PAGE = readFileSync(join(REPO, "docs/SEMANTICS.md"), "utf8");
/** How many promises there are at least: a page that this test can't read has none. */
const PROMISES_MIN = 30;
/** What begins a test, in bun:test and in the helpers of test/support and of the suites. */
const TITLES = /\b(?:test|same|prints|together)\(\s*(["'`])((?:\\.|(?!\1).)*)\1/g;

interface Held {
  promise: string;
  file: string;
  title: string;
}

/** The tests of a table's row: a file in backquotes, then one or more titles in quotes. */
function held(): Held[] {
  const found: Held[] = [];
  for (const [, promise = "", tests = ""] of PAGE.matchAll(/^\| ([A-Z]\d+) \| (.+) \|$/gm)) {
    let file = "";
    for (const [, path, title] of tests.matchAll(/`([^`]+\.test\.ts)`|"([^"]+)"/g)) {
      if (path !== undefined) file = path;
      if (title !== undefined) found.push({ promise, file, title });
    }
  }
  return found;
}

/** The titles in a test file, with `…` where they are filled in. */
function titlesOf(file: string): string[] {
  const path = join(REPO, file);
  if (!existsSync(path)) return [];
  return [...readFileSync(path, "utf8").matchAll(TITLES)].map(([, , title = ""]) => title.replaceAll(/\$\{[^}]*\}/g, "…"));
}

test("every promise names a test that holds it", () => {
  const promises = [...PAGE.matchAll(/^- \*\*([A-Z]\d+)\*\*/gm)].map(([, promise = ""]) => promise);
  expect(promises.length).toBeGreaterThanOrEqual(PROMISES_MIN);
  expect(new Set(promises).size).toBe(promises.length);
  const named = new Set(held().map(({ promise }) => promise));
  expect(promises.filter((promise) => !named.has(promise))).toEqual([]);
  expect([...named].filter((promise) => !promises.includes(promise))).toEqual([]);
});

test("every test that is named exists", () => {
  expect(held().filter(({ file, title }) => !titlesOf(file).includes(title))).toEqual([]);
});
