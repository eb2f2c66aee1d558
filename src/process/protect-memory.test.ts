import { expect, test } from "bun:test";
import { join } from "node:path";

const PROTECT = join(import.meta.dir, "../../ffi/libc/protect.ts");

/** Of /proc/PID/limits, soft and hard. */
const NO_CORE = /^Max core file size +0 +0 /m;

test("a protected process is not dumpable, has no core dumps, and keeps a key's pages in memory", async () => {
  const source = `
    import { dlopen } from "bun:ffi";
    import { forbidDumps, lockMemory } from ${JSON.stringify(PROTECT)};
    const { prctl } = dlopen("libc.so.6", { prctl: { args: ["int", "u64", "u64", "u64", "u64"], returns: "int" } }).symbols;
    const PR_GET_DUMPABLE = 3;
    const isDumpable = () => prctl(PR_GET_DUMPABLE, 0, 0, 0, 0) !== 0;
    const key = new Uint8Array(32);
    const before = isDumpable();
    const locked = () => Number(/VmLck:\\s+(\\d+)/.exec(require("fs").readFileSync("/proc/self/status", "utf8"))?.[1]);
    const lockedBefore = locked();
    console.log(JSON.stringify([before, forbidDumps(), isDumpable(), lockMemory(key), locked() > lockedBefore]));
    console.log(/Max core file size +(\\d+) +(\\d+)/.exec(require("fs").readFileSync("/proc/self/limits", "utf8")).slice(1).join(" "));
  `;
  const child = Bun.spawn([process.execPath, "-e", source], { stdout: "pipe", stderr: "inherit" });
  const [said = "", limits = ""] = (await new Response(child.stdout).text()).trim().split("\n");
  expect(JSON.parse(said)).toEqual([true, true, false, true, true]);
  expect(limits).toBe("0 0");
});

test("every kiseki process is protected before it reads anything", async () => {
  const child = Bun.spawn(
    [process.execPath, join(import.meta.dir, "../main.ts"), "scrub", "--watch", "3600", "--cache-dir", "/nonexistent-kiseki"],
    {
      stdout: "ignore",
      stderr: "ignore",
    },
  );
  try {
    const limits = Bun.file(`/proc/${child.pid}/limits`);
    const deadline = performance.now() + 10_000;
    let text = "";
    while (!NO_CORE.test(text) && performance.now() < deadline) {
      text = await limits.text();
      await Bun.sleep(20);
    }
    expect(text).toMatch(NO_CORE);
  } finally {
    child.kill();
    await child.exited;
  }
});
