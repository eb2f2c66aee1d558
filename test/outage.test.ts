/** No node can be reached: what is known and cached is served, however old it is. */
import { afterAll, expect, setDefaultTimeout, test } from "bun:test";
import { join } from "node:path";
import { cleanUp, KISEKI, run, runOk, TestMount } from "./support/harness.ts";
import { AT_ONCE_MS, META_TTL_MS, mountOf, nodeWithPolicy, timed } from "./support/outage.ts";

setDefaultTimeout(90_000);
afterAll(cleanUp);

/** Empties the kernel's page and name caches: what is read next comes from the client. */
const dropKernelCaches = () => runOk("sh", ["-c", "sync; echo 3 > /proc/sys/vm/drop_caches"]);

test("a job goes on reading what is cached, names and attributes too, however long ago it learned them", async () => {
  const node = await nodeWithPolicy("max_disconnect_seconds=120");
  const mount = await mountOf(node);
  const folder = join(mount.path, "data");
  await runOk("sh", [
    "-ec",
    `mkdir -p ${folder}/sub; head -c 3000000 /dev/urandom > ${folder}/large; echo small > ${folder}/sub/small; ln -s large ${folder}/link`,
  ]);
  const look = `cd ${folder} && ls -lR . && cat sub/small && md5sum large link && test ! -e absent`;
  await runOk("sh", ["-ec", look]);
  const before = await runOk("sh", ["-ec", look]);
  await node.kill();
  await Bun.sleep(2 * META_TTL_MS);
  await dropKernelCaches();
  // The first call may wait until it is certain that this is no mere restart.
  const first = await run("sh", ["-ec", look]);
  expect(first).toMatchObject({ status: 0, stdout: before });
  for (let i = 0; i < 3; i++) {
    await Bun.sleep(2 * META_TTL_MS);
    await dropKernelCaches();
    const { result, tookMs } = await timed(run("sh", ["-ec", look]));
    expect(result).toMatchObject({ status: 0, stdout: before });
    expect(tookMs).toBeLessThan(AT_ONCE_MS);
  }
  await node.restart();
  await runOk("sh", ["-ec", `echo new > ${folder}/sub/small; cat ${folder}/sub/small`]);
  await mount.unmount();
});

test("a mount of several namespaces still lists them", async () => {
  const node = await nodeWithPolicy("max_disconnect_seconds=120");
  const where = ["--data-addr", node.addr, "--credentials", await node.credentials("t")];
  await runOk(KISEKI, ["namespace", "create", "more", ...where]);
  const mount = await TestMount.mount(node, { namespace: "all", args: ["-o", `meta_ttl_ms=${META_TTL_MS}`] });
  const look = `cd ${mount.path}; ls -l . && cat more/f`;
  await runOk("sh", ["-ec", `echo x > ${mount.path}/more/f; ${look}`]);
  await node.kill();
  await Bun.sleep(2 * META_TTL_MS);
  expect(await run("sh", ["-ec", look])).toMatchObject({ status: 0, stdout: expect.stringContaining("default") });
  const { result, tookMs } = await timed(run("sh", ["-ec", look]));
  expect(result).toMatchObject({ status: 0, stdout: expect.stringContaining("x\n") });
  expect(tookMs).toBeLessThan(AT_ONCE_MS);
});

test("what another mount has changed is not served from memory in an outage, and seen as soon as the node is back", async () => {
  const node = await nodeWithPolicy("max_disconnect_seconds=120");
  const reader = await mountOf(node);
  const writer = await mountOf(node);
  await runOk("sh", ["-ec", `echo old > ${reader.path}/recalled; echo old > ${reader.path}/kept; cat ${reader.path}/*`]);
  await Bun.sleep(2 * META_TTL_MS);
  await runOk("sh", ["-ec", `echo new > ${writer.path}/recalled`]);
  await node.kill();
  await dropKernelCaches();
  expect(await run("cat", [join(reader.path, "kept")])).toMatchObject({ status: 0, stdout: "old\n" });
  // The node told the reader of it before it died: asking what is there now waits for a node.
  const waiting = run("cat", [join(reader.path, "recalled")]);
  expect(await Promise.race([waiting, Bun.sleep(1_000)])).toBeUndefined();
  await node.restart();
  expect(await waiting).toMatchObject({ status: 0, stdout: "new\n" });
  expect(await run("cat", [join(reader.path, "kept")])).toMatchObject({ status: 0, stdout: "old\n" });
});
