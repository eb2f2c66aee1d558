/** Every offset, size and constant of layout.ts and kernel.ts, compared with what a C compiler makes of the installed headers. */
import { expect, test } from "bun:test";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import * as kernel from "./kernel.ts";
import * as layout from "./layout.ts";

/** Names that are ours, with the C expression that they must equal; null: not in the headers of every version. */
const OUR_NAMES: Record<string, string | null> = {
  fuse_lowlevel_ops_size: "offsetof(struct fuse_lowlevel_ops, lseek) + sizeof(void *)",
  fuse_buf_room: null,
  libfuse_version_size: null,
};

function expressions(module: Record<string, unknown>): Map<string, number> {
  const found = new Map<string, number>();
  for (const [name, value] of Object.entries(module)) {
    if (typeof value === "number") {
      const expression = name in OUR_NAMES ? OUR_NAMES[name] : name;
      if (expression !== null && expression !== undefined) found.set(expression, value);
    } else if (typeof value === "object" && value !== null) {
      for (const [member, offset] of Object.entries(value)) {
        found.set(member === "SIZE" ? `sizeof(struct ${name})` : `offsetof(struct ${name}, ${member})`, Number(offset));
      }
    }
  }
  return found;
}

async function run(command: string[]): Promise<string> {
  const child = Bun.spawn(command, { stdout: "pipe", stderr: "pipe" });
  const [out, err, status] = await Promise.all([new Response(child.stdout).text(), new Response(child.stderr).text(), child.exited]);
  if (status !== 0) throw new Error(`${command.join(" ")} exited with ${status}:\n${err}`);
  return out;
}

async function compiled(include: string, wanted: Map<string, number>): Promise<Map<string, number>> {
  const folder = mkdtempSync(join(tmpdir(), "kiseki-layout-"));
  try {
    const lines = [...wanted.keys()].map(
      (expression) => `  printf("%s=%lld\\n", ${JSON.stringify(expression)}, (long long)(${expression}));`,
    );
    const source = `${include}\n#include <stddef.h>\n#include <stdio.h>\nint main(void) {\n${lines.join("\n")}\n  return 0;\n}\n`;
    const file = join(folder, "layout.c");
    writeFileSync(file, source);
    await run(["gcc", "-o", join(folder, "layout"), file, "-I/usr/include/fuse3", "-D_FILE_OFFSET_BITS=64"]);
    const printed = await run([join(folder, "layout")]);
    return new Map(
      printed
        .trim()
        .split("\n")
        .map((line) => [line.slice(0, line.lastIndexOf("=")), Number(line.slice(line.lastIndexOf("=") + 1))]),
    );
  } finally {
    rmSync(folder, { recursive: true });
  }
}

test("layout.ts agrees with the installed libfuse3 headers", async () => {
  const wanted = expressions(layout);
  expect(wanted.size).toBeGreaterThan(60);
  const include =
    "#define FUSE_USE_VERSION 310\n#include <fuse_lowlevel.h>\n#include <fuse_log.h>\n#include <poll.h>\n#include <sys/uio.h>";
  expect(Object.fromEntries(await compiled(include, wanted))).toEqual(Object.fromEntries(wanted));
});

test("kernel.ts agrees with the installed linux/fuse.h and linux/fs.h", async () => {
  const wanted = expressions(kernel);
  expect(wanted.size).toBeGreaterThan(150);
  expect(Object.fromEntries(await compiled("#include <linux/fuse.h>\n#include <linux/fs.h>", wanted))).toEqual(Object.fromEntries(wanted));
});
