/** Mounting as a user who is not root, through fusermount3. */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { chmodSync, chownSync, copyFileSync, mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { cleanUp, KISEKI, run, TestNode, tempFolder } from "./support/harness.ts";

setDefaultTimeout(60_000);

const USER = 65534;

let node: TestNode;
let folder: string;

beforeAll(async () => {
  node = await TestNode.start();
  folder = tempFolder("user-");
  for (const name of ["", "home", "tmp", "mnt", "foreign"]) {
    const path = join(folder, name);
    if (name !== "") mkdirSync(path);
    chmodSync(path, 0o755);
    if (name !== "foreign") chownSync(path, USER, USER);
  }
  const credentials = join(folder, "t.json");
  copyFileSync(await node.credentials("t"), credentials);
  chmodSync(credentials, 0o600);
  chownSync(credentials, USER, USER);
  writeFileSync(join(folder, "kiseki"), "");
});
afterAll(cleanUp);

interface Surroundings {
  /** Permissions of /dev/fuse. */
  deviceMode?: string;
  fuseConf?: string;
}

/**
 * Runs a script as an ordinary user, in a mount and pid namespace of its own (all of it ends with the script): /mnt is the test's folder,
 * /dev/fuse and /etc/fuse.conf are as on Debian. In the script, kiseki_mount mounts /mnt/mnt.
 */
async function asUser(script: string, { deviceMode = "666", fuseConf = "" }: Surroundings = {}): ReturnType<typeof run> {
  writeFileSync(join(folder, "fuse.conf"), fuseConf);
  writeFileSync(
    join(folder, "script"),
    `kiseki_mount() { /mnt/kiseki mount /mnt/mnt --data-addr ${node.addr} --credentials /mnt/t.json "$@"; }\n${script}\n`,
  );
  const prepare = `
set -e
mount --bind "$1" /mnt
mount --bind "$2" /mnt/kiseki
mount -t tmpfs -o mode=755 none /dev
mknod -m 666 /dev/null c 1 3; mknod -m 666 /dev/zero c 1 5; mknod -m 444 /dev/urandom c 1 9; mknod -m 444 /dev/random c 1 8
mknod -m ${deviceMode} /dev/fuse c 10 229
[ -e /etc/fuse.conf ] || touch /etc/fuse.conf
mount --bind /mnt/fuse.conf /etc/fuse.conf
cd /
exec setpriv --reuid=${USER} --regid=${USER} --clear-groups env -i PATH="$PATH" HOME=/mnt/home TMPDIR=/mnt/tmp bash /mnt/script`;
  return await run("unshare", [
    "--mount",
    "--pid",
    "--fork",
    "--kill-child",
    "--mount-proc",
    "bash",
    "-c",
    prepare,
    "bash",
    folder,
    KISEKI,
  ]);
}

test("mount, use, kiseki umount; mount, fusermount3 -u: the files are the user's", async () => {
  const result = await asUser(`
    set -e
    kiseki_mount; echo "mounted $?"
    echo mine > /mnt/mnt/file; mkdir /mnt/mnt/dir
    stat -c '%u:%g %a' /mnt/mnt/file
    /mnt/kiseki umount /mnt/mnt
    kiseki_mount
    cat /mnt/mnt/file
    fusermount3 -u /mnt/mnt; echo "unmounted $?"
    ls -A /mnt/mnt
    ls /mnt/home/.local/state/kiseki`);
  expect(result).toEqual({
    status: 0,
    stdout: `mounted 0\n${USER}:${USER} 644\n/mnt/mnt: flushed and unmounted\nmine\nunmounted 0\nmnt-mnt.log\n`,
    stderr: "",
  });
});

test("the client ends by itself after fusermount3 -u, and after SIGTERM has unmounted", async () => {
  const result = await asUser(`
    kiseki_mount; fusermount3 -u /mnt/mnt
    for i in $(seq 200); do pgrep -f 'mount-process /mnt/mnt' > /dev/null || break; sleep 0.1; done; echo "ended $i" | sed 's/ 200/ never/; s/ [0-9]*$//'
    kiseki_mount; pkill -TERM -f 'mount-process /mnt/mnt'
    for i in $(seq 200); do pgrep -f 'mount-process /mnt/mnt' > /dev/null || break; sleep 0.1; done; echo "ended $i" | sed 's/ 200/ never/; s/ [0-9]*$//'
    grep -c /mnt/mnt /proc/self/mounts`);
  expect(result.stderr).toBe("");
  expect(result.stdout).toBe("ended\nended\n0\n");
});

test("what a killed client left is cleared by the next mount", async () => {
  const result = await asUser(`
    kiseki_mount; echo kept > /mnt/mnt/kept; pkill -KILL -f 'mount-process /mnt/mnt'; sleep 0.2
    ls /mnt/mnt 2>&1 | grep -c 'not connected'
    kiseki_mount; echo "mounted $?"; cat /mnt/mnt/kept; /mnt/kiseki umount /mnt/mnt`);
  expect(result).toMatchObject({ stdout: "1\nmounted 0\nkept\n/mnt/mnt: flushed and unmounted\n", stderr: "" });
});

test("allow_other needs user_allow_other in /etc/fuse.conf, and the message says so", async () => {
  const refused = await asUser("kiseki_mount -o allow_other; echo $?");
  expect(refused.stderr).toMatch(/^kiseki: .*user_allow_other.*\/etc\/fuse\.conf.*\n$/);
  expect(refused.stdout).toBe("1\n");
  const allowed = await asUser("kiseki_mount -o allow_other && /mnt/kiseki umount /mnt/mnt", { fuseConf: "user_allow_other\n" });
  expect(allowed).toEqual({ status: 0, stdout: "/mnt/mnt: flushed and unmounted\n", stderr: "" });
});

test("no permission for /dev/fuse, for the folder, no fusermount3: 1, and one line with the remedy", async () => {
  const device = await asUser("kiseki_mount; echo $?", { deviceMode: "600" });
  expect(device.stderr).toMatch(/^kiseki: .*\/dev\/fuse.*\n$/);
  expect(device.stdout).toBe("1\n");
  const foreign = await asUser(`/mnt/kiseki mount /mnt/foreign --data-addr ${node.addr} --credentials /mnt/t.json; echo $?`);
  expect(foreign.stderr).toMatch(/^kiseki: \/mnt\/foreign: .+\n$/);
  expect(foreign.stdout).toBe("1\n");
  const missing = await asUser("PATH=/nowhere; kiseki_mount; echo $?");
  expect(missing.stderr).toMatch(/^kiseki: .*fusermount3.*fuse3.*\n$/);
  expect(missing.stdout).toBe("1\n");
});

test("set-id programs and device nodes have no power in a user's mount", async () => {
  const result = await asUser("kiseki_mount && grep /mnt/mnt /proc/self/mounts; /mnt/kiseki umount /mnt/mnt");
  expect(result.stdout).toMatch(/nosuid,nodev/);
});
