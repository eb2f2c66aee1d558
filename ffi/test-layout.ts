/** What a C compiler makes of the installed headers, for the tests that compare our lists of structs with them. */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

/**
 * The C expressions that a module of layouts stands for, with its values: constants by their names, structs by offsetof and sizeof.
 * @param ourNames names that are not in the headers, with the expression that they must equal; null: not to be compared
 */
export function expressions(module: Record<string, unknown>, ourNames: Record<string, string | null> = {}): Map<string, bigint> {
  const found = new Map<string, bigint>();
  for (const [name, value] of Object.entries(module)) {
    if (typeof value === "number" || typeof value === "bigint") {
      const expression = name in ourNames ? ourNames[name] : name;
      if (expression !== null && expression !== undefined) found.set(expression, BigInt(value));
    } else if (typeof value === "object" && value !== null) {
      for (const [member, offset] of Object.entries(value)) {
        found.set(member === "SIZE" ? `sizeof(struct ${name})` : `offsetof(struct ${name}, ${member})`, BigInt(offset as number));
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

/** The values that the compiler gives to the expressions. `include`: lines before them. Fails where the compiler or a header is missing. */
export async function compiled(include: string, wanted: Iterable<string>, flags: string[] = []): Promise<Map<string, bigint>> {
  const folder = mkdtempSync(join(tmpdir(), "kiseki-layout-"));
  try {
    const lines = [...wanted].map(
      (expression) => `  printf("%s=%llu\\n", ${JSON.stringify(expression)}, (unsigned long long)(${expression}));`,
    );
    const source = `${include}\n#include <stddef.h>\n#include <stdio.h>\nint main(void) {\n${lines.join("\n")}\n  return 0;\n}\n`;
    const file = join(folder, "layout.c");
    writeFileSync(file, source);
    await run(["gcc", "-o", join(folder, "layout"), file, ...flags]);
    const printed = await run([join(folder, "layout")]);
    return new Map(
      printed
        .trim()
        .split("\n")
        .map((line) => [line.slice(0, line.lastIndexOf("=")), BigInt.asIntN(64, BigInt(line.slice(line.lastIndexOf("=") + 1)))]),
    );
  } finally {
    rmSync(folder, { recursive: true });
  }
}
