/** biome.jsonc keeps the folders' layering: these are the kinds of imports that it must refuse. */
import { afterAll, expect, test } from "bun:test";
import { cpSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";

const REPO = join(import.meta.dir, "..");
const folder = mkdtempSync(join(tmpdir(), "kiseki-layering-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** What biome says of these files, in a tree of their own. */
function lint(files: Readonly<Record<string, string>>): { passes: boolean; output: string } {
  const tree = mkdtempSync(join(folder, "tree-"));
  cpSync(join(REPO, "biome.jsonc"), join(tree, "biome.jsonc"));
  mkdirSync(join(tree, "node_modules"));
  Bun.spawnSync(["git", "init", "-q"], { cwd: tree });
  for (const [path, text] of Object.entries(files)) {
    mkdirSync(dirname(join(tree, path)), { recursive: true });
    writeFileSync(join(tree, path), text);
  }
  const result = Bun.spawnSync([join(REPO, "node_modules/.bin/biome"), "lint", "--colors=off", "."], {
    cwd: tree,
    stdout: "pipe",
    stderr: "pipe",
  });
  return { passes: result.success, output: result.stdout.toString() + result.stderr.toString() };
}

const TYPE = "export interface Thing {\n  readonly size: number;\n}\n";
const use = (path: string) => `import type { Thing } from "${path}";\n\nexport const size = (thing: Thing): number => thing.size;\n`;

test.each([
  ["src/client/a.ts", "src/cli/shared/b.ts"],
  ["src/fs/content/a.ts", "src/mount/b.ts"],
  ["src/cache/disk/a.ts", "src/fs/posix/b.ts"],
  ["src/crypto/a.ts", "src/transport/b.ts"],
  ["src/node/engines/a.ts", "src/crypto/b.ts"],
  ["src/protocol/a.ts", "src/transport/b.ts"],
  ["ffi/libc/a.ts", "src/protocol/b.ts"],
])("%s must not import %s, types included", (from, to) => {
  const up = "../".repeat(dirname(from).split("/").length);
  const { passes, output } = lint({ [from]: use(up + to), [to]: TYPE });
  expect(output).toContain("noRestrictedImports");
  expect(passes).toBe(false);
});

test("an import circle is refused, also one of types alone", () => {
  const { passes, output } = lint({ "src/fs/a.ts": use("./b.ts") + TYPE, "src/fs/b.ts": use("./a.ts") + TYPE });
  expect(output).toContain("noImportCycles");
  expect(passes).toBe(false);
});

test("imports along the layering pass", () => {
  const { passes, output } = lint({ "src/fs/content/a.ts": use("../../cache/disk/b.ts"), "src/cache/disk/b.ts": TYPE });
  expect({ passes, output: passes ? "" : output }).toEqual({ passes: true, output: "" });
});
