/** How mounts begin and end, and what happens while requests wait. */
import { expect, test } from "bun:test";
import * as fs from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { mountAt } from "../process/mountinfo.ts";
import { Mounted, sys } from "./testing/mounted.ts";

/** What the server says instead of "ready". */
async function failureOf(start: Promise<Mounted>): Promise<{ failed: string; message: string }> {
  try {
    await using mount = await start;
    return { failed: "mounted", message: mount.path };
  } catch (error) {
    return JSON.parse((error as Error).message);
  }
}

function temporaryFolder(): string {
  return fs.mkdtempSync(join(tmpdir(), "kiseki-mount-"));
}

/** A program that reads a file with one read(2) and prints the errno, or 0. SIGALRM interrupts it after 0.2 s. */
const INTERRUPTED_READER = `
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/time.h>
#include <unistd.h>
static void nothing(int s) { (void)s; }
int main(int argc, char **argv) {
  char c[16];
  struct sigaction a = { .sa_handler = nothing };
  struct itimerval t = { .it_value = { .tv_usec = 200000 } };
  if (argc < 2) return 1;
  int fd = open(argv[1], O_RDONLY | 040000);
  if (fd < 0) return 2;
  sigaction(SIGALRM, &a, 0);
  setitimer(ITIMER_REAL, &t, 0);
  printf("%d", read(fd, c, 16) < 0 ? errno : 0);
  return 0;
}`;

test("a signal reaches the filesystem, and the call returns EINTR", async () => {
  await using mount = await Mounted.start();
  const folder = temporaryFolder();
  fs.writeFileSync(join(folder, "reader.c"), INTERRUPTED_READER);
  expect(await Bun.spawn(["gcc", "-o", join(folder, "reader"), join(folder, "reader.c")]).exited).toBe(0);
  fs.writeFileSync(mount.at("file"), "never read");
  sys.setxattr(mount.at("file"), "user.slow", Buffer.from("1"));
  const reader = Bun.spawn([join(folder, "reader"), mount.at("file")], { stdout: "pipe" });
  expect(await new Response(reader.stdout).text()).toBe("4");
  fs.rmSync(folder, { recursive: true });
});

test("a killed program does not wait for an answer that it can't get", async () => {
  await using mount = await Mounted.start();
  fs.writeFileSync(mount.at("file"), "never read");
  sys.setxattr(mount.at("file"), "user.slow", Buffer.from("1"));
  const reader = Bun.spawn(["cat", mount.at("file")], { stdio: ["ignore", "ignore", "ignore"] });
  await Bun.sleep(200);
  reader.kill("SIGKILL");
  await reader.exited;
  expect(reader.signalCode).toBe("SIGKILL");
  expect(await mount.unmount()).toBe(0);
});

test("requests that are never answered hold up neither other requests nor a forced unmount", async () => {
  await using mount = await Mounted.start();
  fs.writeFileSync(mount.at("stuck"), "never read");
  sys.setxattr(mount.at("stuck"), "user.never", Buffer.from("1"));
  const stuck = Bun.spawn(["cat", mount.at("stuck")], { stdio: ["ignore", "ignore", "ignore"] });
  await Bun.sleep(200);
  fs.writeFileSync(mount.at("file"), "x");
  expect(fs.readFileSync(mount.at("file"), "utf8")).toBe("x");
  await mount.unmount("-f");
  expect(await stuck.exited).not.toBe(0);
  await mount.unmount("-l");
  expect(await mount.line()).toEqual({ ended: true });
  expect(await mount.child.exited).toBe(0);
}, 30_000);

test("umount ends the server", async () => {
  await using mount = await Mounted.start();
  fs.writeFileSync(mount.at("file"), "x");
  expect(await mount.unmount()).toBe(0);
  expect(await mount.line()).toEqual({ ended: true });
  expect(await mount.child.exited).toBe(0);
  expect(await mount.log).toBe("");
});

test("fusermount3 -u ends the server", async () => {
  await using mount = await Mounted.start();
  expect(await Bun.spawn(["fusermount3", "-u", mount.path]).exited).toBe(0);
  expect(await mount.line()).toEqual({ ended: true });
});

test("a stop unmounts, with data that the kernel still holds written out first", async () => {
  await using mount = await Mounted.start({ writebackCache: true });
  fs.writeFileSync(mount.at("file"), Buffer.alloc(1_000_000, 1));
  const fd = fs.openSync(mount.at("kept"), "w");
  fs.writeSync(fd, Buffer.alloc(100_000, 2));
  fs.closeSync(fd);
  expect(await mount.ask({ do: "stop" })).toEqual({});
  expect(await mount.line()).toEqual({ ended: true });
  expect(mountAt(mount.path)).toBeNull();
  expect(await mount.log).toBe("");
});

test("a stop does not wait for ever for files that stay open", async () => {
  await using mount = await Mounted.start();
  const fd = fs.openSync(mount.at("file"), "w");
  fs.writeSync(fd, "x");
  expect(await mount.ask({ do: "stop" })).toEqual({});
  expect(await mount.line()).toEqual({ ended: true });
  expect(mountAt(mount.path)).toBeNull();
  expect(() => fs.writeSync(fd, "y")).toThrow();
  fs.closeSync(fd);
}, 40_000);

test("what another mount changed is seen after a notification, and not before", async () => {
  await using mount = await Mounted.start();
  fs.writeFileSync(mount.at("file"), "old!");
  expect(fs.readFileSync(mount.at("file"), "utf8")).toBe("old!");
  await mount.ask({ do: "change", name: "file", content: "newer", notify: false });
  expect(fs.readFileSync(mount.at("file"), "utf8")).toBe("old!");
  await mount.ask({ do: "change", name: "file", content: "newest", notify: true });
  expect(fs.readFileSync(mount.at("file"), "utf8")).toBe("newest");
  expect(fs.statSync(mount.at("file")).size).toBe(6);
  await mount.ask({ do: "remove", name: "file", notify: false });
  expect(fs.existsSync(mount.at("file"))).toBe(true);
  await mount.ask({ do: "remove", name: "file", notify: true });
  expect(fs.existsSync(mount.at("file"))).toBe(false);
});

test("notifications during reads and writes hang neither", async () => {
  await using mount = await Mounted.start();
  fs.writeFileSync(mount.at("file"), Buffer.alloc(1 << 20));
  const readers = [1, 2, 3].map(() =>
    Bun.spawn(["sh", "-c", `for i in $(seq 30); do cat ${mount.at("file")} > /dev/null; echo x >> ${mount.at("file")}; done`]),
  );
  for (let i = 0; i < 100; i++) await mount.ask({ do: "change", name: "file", content: "y".repeat(100_000), notify: true });
  for (const reader of readers) expect(await reader.exited).toBe(0);
  expect(await mount.unmount()).toBe(0);
  expect(await mount.line()).toEqual({ ended: true });
});

test("the mount shows up as what it is", async () => {
  await using mount = await Mounted.start({ generic: ["noatime", "noexec"] });
  const entry = mountAt(mount.path);
  expect([entry?.type, entry?.source]).toEqual(["fuse.kiseki", "memory:1/test"]);
  for (const option of ["noatime", "noexec", "nosuid", "nodev"]) expect(entry?.options.split(",")).toContain(option);
});

test("the kernel reads ahead a megabyte when root mounts", async () => {
  await using mount = await Mounted.start();
  const device = mountAt(mount.path)?.device;
  expect(fs.readFileSync(`/sys/class/bdi/${device}/read_ahead_kb`, "utf8").trim()).toBe("1024");
});

test("a mount that a killed server left behind is replaced", async () => {
  const first = await Mounted.start();
  first.child.kill("SIGKILL");
  await first.child.exited;
  expect(() => fs.statSync(first.path)).toThrow("ENOTCONN");
  await using second = await Mounted.start({}, first.path);
  fs.writeFileSync(second.at("file"), "alive");
  expect(await second.unmount()).toBe(0);
  expect(mountAt(first.path)).toBeNull();
});

test("a live mount is not mounted over", async () => {
  await using mount = await Mounted.start();
  const again = await failureOf(Mounted.start({}, mount.path));
  expect(again.failed).toBe("already-mounted");
});

test("what can't be mounted on is refused with the remedy", async () => {
  const folder = temporaryFolder();
  fs.writeFileSync(join(folder, "file"), "x");
  const missing = await failureOf(Mounted.start({}, join(folder, "missing")));
  expect(missing.failed).toBe("not-found");
  expect(missing.message).toContain("mkdir -p");
  expect((await failureOf(Mounted.start({}, join(folder, "file")))).failed).toBe("not-a-folder");
  fs.mkdirSync(join(folder, "full"));
  fs.writeFileSync(join(folder, "full", "kept"), "x");
  const full = await failureOf(Mounted.start({}, join(folder, "full")));
  expect(full.failed).toBe("not-empty");
  expect(full.message).toContain("nonempty");
  expect(full.message).not.toContain("\n");
  fs.rmSync(folder, { recursive: true, force: true });
});

test("a folder that is not empty is mounted on when told so", async () => {
  const folder = temporaryFolder();
  fs.writeFileSync(join(folder, "hidden"), "x");
  await using mount = await Mounted.start({ nonEmpty: true }, folder);
  expect(fs.readdirSync(mount.path)).toEqual([]);
});

test("unknown mount options are refused by name", async () => {
  const refused = await failureOf(Mounted.start({ generic: ["nosuchoption"] }));
  expect(refused.failed).toBe("option");
  expect(refused.message).toContain("nosuchoption");
});
