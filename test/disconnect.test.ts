/** No node can be reached for max_disconnect_seconds: everything cached is wiped, and nothing is served until a node is back. */
import { afterAll, expect, setDefaultTimeout, test } from "bun:test";
import { join } from "node:path";
import { cleanUp, Dialog, run, runOk } from "./support/harness.ts";
import { AT_ONCE_MS, mountOf, nodeWithPolicy, timed } from "./support/outage.ts";

setDefaultTimeout(90_000);
afterAll(cleanUp);

test("after max_disconnect_seconds everything is wiped: reading fails at once, and works again when the node is back", async () => {
  const node = await nodeWithPolicy("max_disconnect_seconds=3");
  const mount = await mountOf(node);
  const file = join(mount.path, "f");
  await runOk("sh", ["-ec", `head -c 3000000 /dev/urandom > ${file}; echo small > ${mount.path}/small; cat ${mount.path}/*`]);
  const sum = await runOk("md5sum", [file]);
  // A program that has the file open, and reads a byte of it for each line that it is sent.
  const program = `import os, sys
fd = os.open(${JSON.stringify(file)}, os.O_RDONLY)
for line in sys.stdin:
    try: print(len(os.pread(fd, 1, 2_000_000)), flush=True)
    except OSError as error: print(error.strerror, flush=True)`;
  const holder = new Dialog("python3", ["-c", program]);
  const read = async (): Promise<string | null> => {
    holder.say("read");
    return await holder.line();
  };
  expect(await read()).toBe("1");
  await node.kill();
  await runOk("sh", ["-c", `for i in $(seq 300); do grep -q "caches are wiped" ${mount.logFile} && exit 0; sleep 0.1; done; exit 1`]);
  expect(mount.log()).toContain("no storage node has answered for too long");
  for (const command of [`md5sum ${file}`, `cat ${mount.path}/small`, `ls -l ${mount.path}/`]) {
    const { result, tookMs } = await timed(run("sh", ["-c", command]));
    expect(result.status).not.toBe(0);
    expect(result.stderr).toContain("Input/output error");
    expect(tookMs).toBeLessThan(AT_ONCE_MS);
  }
  expect(await read()).toBe("Input/output error");
  await node.restart();
  await runOk("sh", ["-c", `for i in $(seq 100); do md5sum ${file} 2>/dev/null && exit 0; sleep 0.1; done; exit 1`]);
  expect(await runOk("md5sum", [file])).toBe(sum);
  expect(await runOk("cat", [join(mount.path, "small")])).toBe("small\n");
  await runOk("sh", ["-c", `for i in $(seq 100); do grep -q "answers again" ${mount.logFile} && exit 0; sleep 0.1; done; exit 1`]);
  expect(await read()).toBe("1");
  await holder.end();
  await mount.unmount();
});

test("a mount that nobody uses is not given up: heartbeats count", async () => {
  const node = await nodeWithPolicy("max_disconnect_seconds=1");
  const mount = await mountOf(node);
  await runOk("sh", ["-ec", `echo kept > ${mount.path}/f; cat ${mount.path}/f`]);
  await Bun.sleep(4_000);
  expect(mount.log()).not.toContain("for too long");
  await mount.unmount();
});

test("without a node, unmounting works before and after the wipe", async () => {
  const unmounts = async (seconds: number): Promise<void> => {
    const node = await nodeWithPolicy(`max_disconnect_seconds=${seconds}`);
    const mount = await mountOf(node);
    await runOk("sh", ["-ec", `echo x > ${mount.path}/f; cat ${mount.path}/f`]);
    await node.kill();
    await Bun.sleep(2_500);
    expect(await run("umount", [mount.path], { timeoutMs: 10_000 })).toMatchObject({ status: 0 });
    for (let i = 0; i < 500 && mount.isRunning; i++) await Bun.sleep(20);
    expect(mount.isRunning).toBeFalse();
  };
  await Promise.all([unmounts(120), unmounts(1)]);
});
