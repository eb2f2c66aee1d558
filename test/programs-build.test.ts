/** A C program with a library, built by make on a mount and run from it. */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { cleanUp, runOk, TestMount, TestNode, tempFolder } from "./support/harness.ts";

setDefaultTimeout(120_000);

const MODULES = 12;

let node: TestNode;
let mount: TestMount;

const MAKEFILE = `
OBJECTS := $(patsubst %.c,%.o,$(wildcard part*.c))
CFLAGS := -O1 -g -fPIC -Wall -Werror -MMD
all: program
program: main.o libparts.so
\t$(CC) -o $@ main.o -L. -lparts -Wl,-rpath,'$$ORIGIN'
libparts.so: libparts.a
\t$(CC) -shared -o $@ -Wl,--whole-archive libparts.a -Wl,--no-whole-archive
libparts.a: $(OBJECTS)
\t$(AR) rcs $@ $^
clean:
\trm -f *.o *.d *.a *.so program
-include $(wildcard *.d)
`;

function writeSources(folder: string): void {
  mkdirSync(folder);
  const names = Array.from({ length: MODULES }, (_, i) => `part${i}`);
  writeFileSync(join(folder, "parts.h"), `#define FACTOR 3\n${names.map((name) => `int ${name}(int);\n`).join("")}`);
  names.forEach((name, i) => {
    writeFileSync(join(folder, `${name}.c`), `#include "parts.h"\nint ${name}(int n) { return n * FACTOR + ${i}; }\n`);
  });
  const sum = names.map((name) => `${name}(argc)`).join(" + ");
  writeFileSync(
    join(folder, "main.c"),
    `#include <stdio.h>\n#include "parts.h"\nint main(int argc, char **argv) { printf("%s %d\\n", argv[1], ${sum}); return 0; }\n`,
  );
  writeFileSync(join(folder, "Makefile"), MAKEFILE);
}

beforeAll(async () => {
  node = await TestNode.start();
  mount = await TestMount.mount(node);
  const local = tempFolder("build-");
  writeSources(join(local, "src"));
  await runOk("cp", ["-r", join(local, "src"), mount.path]);
});
afterAll(cleanUp);

const make = (...args: string[]) => runOk("make", ["-j2", ...args], { cwd: join(mount.path, "src") });
const program = () => runOk(join(mount.path, "src/program"), ["sum"]);
const indexes = (MODULES * (MODULES - 1)) / 2;

test("make builds, the program runs, and a second make has nothing to do", async () => {
  await make();
  expect(await program()).toBe(`sum ${2 * 3 * MODULES + indexes}\n`);
  expect(await make()).toContain("Nothing to be done for 'all'");
});

test("a changed header is noticed by its time, and all is built again over the files in use", async () => {
  await runOk("sed", ["-i", "s/FACTOR 3/FACTOR 5/", "parts.h"], { cwd: join(mount.path, "src") });
  expect(await make()).toContain("part0.o");
  expect(await program()).toBe(`sum ${2 * 5 * MODULES + indexes}\n`);
});

test("after mounting elsewhere the program runs and make still has nothing to do", async () => {
  await mount.unmount();
  mount = await TestMount.mount(node);
  expect(await program()).toBe(`sum ${2 * 5 * MODULES + indexes}\n`);
  expect(await make()).toContain("Nothing to be done for 'all'");
  await make("clean");
  expect(await runOk("bash", ["-c", "ls *.o *.a *.so program 2>/dev/null | wc -l"], { cwd: join(mount.path, "src") })).toBe("0\n");
});

test("a running program can't be written to; a new one can replace it", async () => {
  await make();
  const folder = join(mount.path, "src");
  const script = `cp /bin/sleep run; ./run 3 & sleep 0.3; (echo x >> run) 2>&1; cp program other; mv other run; ./run replaced; wait`;
  const told = await runOk("bash", ["-c", script], { cwd: folder });
  expect(told).toContain("Text file busy");
  expect(told).toContain("replaced");
});
