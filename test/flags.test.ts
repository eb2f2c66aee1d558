/** chattr and lsattr: what an immutable file or folder, and one that may only grow, refuse, as on a local filesystem. */
import { expect, test } from "bun:test";
import { existsSync, unlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { PosixLab, py } from "./support/posix.ts";
import { run, runOk } from "./support/run.ts";
import { TestMount } from "./support/test-mount.ts";

const lab = new PosixLab();

/** Flags of e2fsprogs' programs, without "e" and the like, which are the local filesystem's own. */
const PRELUDE = py`
    import subprocess, struct
    def chattr(change, path): return subprocess.run(["chattr", change, path], capture_output=True).returncode
    def lsattr(path):
        out = subprocess.run(["lsattr", "-d", path], capture_output=True, text=True)
        return "".join(c for c in out.stdout.split(" ")[0] if c in "iadA") if out.returncode == 0 else "failed"
`;

/** Everything that changes a file or folder. */
const ATTEMPTS = py`
    def attempts(path, other):
        is_dir = os.path.isdir(path)
        do("open to write", with_fd, path, os.O_WRONLY, lambda fd: None)
        do("open to append", with_fd, path, os.O_WRONLY | os.O_APPEND, lambda fd: os.write(fd, b"more") and None)
        do("open to append and truncate", with_fd, path, os.O_WRONLY | os.O_APPEND | os.O_TRUNC, lambda fd: None)
        do("open to read and write", with_fd, path, os.O_RDWR, lambda fd: None)
        do("read only, truncate", with_fd, path, os.O_RDONLY | os.O_TRUNC, lambda fd: None)
        do("truncate", os.truncate, path, 1)
        do("chmod", os.chmod, path, 0o700)
        do("chown", os.chown, path, 1000, 1000)
        do("set times", os.utime, path, (1, 1))
        do("touch", os.utime, path)
        do("setxattr", os.setxattr, path, "user.a", b"b")
        do("removexattr", os.removexattr, path, "user.kept")
        do("link", os.link, path, other)
        do("rename", os.rename, path, other)
        do("exchange", renameat2, path, "beside", 2)
        do("replace", os.rename, "beside dir" if is_dir else "beside", path)
        do("remove", os.rmdir if is_dir else os.unlink, path)
        if is_dir:
            do("create", put, path + "/new", b"new")
            do("mkdir", os.mkdir, path + "/newdir")
            do("symlink", os.symlink, "x", path + "/newlink")
            do("link into", os.link, "beside", path + "/linked")
            do("move into", os.rename, "beside", path + "/moved")
            do("remove in", os.unlink, path + "/child")
            do("rename in", os.rename, path + "/child", path + "/renamed")
            do("move out", os.rename, path + "/child", "out")
            do("write in", with_fd, path + "/child", os.O_WRONLY, lambda fd: os.write(fd, b"CHILD") and None)
            show("listing", sorted(os.listdir(path)))
        else:
            show("content", get(path))
        show("flags", lsattr(path))
`;

for (const flag of ["i", "a"]) {
  lab.same(
    `a file and a folder with chattr +${flag} refuse root the same changes, and take them when it is gone`,
    `${PRELUDE}${ATTEMPTS}${py`
    put("beside", "beside"); os.mkdir("beside dir")
    put("file", "content"); os.setxattr("file", "user.kept", b"x")
    os.mkdir("folder"); put("folder/child", "child"); os.setxattr("folder", "user.kept", b"x")
    for path in ["file", "folder"]:
        show(path + " set", chattr("+${flag}", path)); show("flags", lsattr(path))
        attempts(path, path + " other")
        put("beside", "beside")
        if not os.path.isdir("beside dir"): os.mkdir("beside dir")
        show(path + " cleared", chattr("-${flag}", path)); show("flags", lsattr(path))
    do("now it is written", put, "file", "other"); show("content", get("file"))
    do("and removed", os.unlink, "file")
    for name in os.listdir("folder"):
        path = "folder/" + name
        os.rmdir(path) if os.path.isdir(path) else os.unlink(path)
    do("and the folder", os.rmdir, "folder")
    `}`,
    { shows: ["file set: 0", `flags: ${flag}`, "remove: EPERM"] },
  );
}

lab.same(
  "descriptors that were open before: an immutable file takes no more writes, one that may only grow takes them at its end",
  `${PRELUDE}${py`
    put("i", "content"); put("a", "content")
    fds = {name: (os.open(name, os.O_WRONLY), os.open(name, os.O_WRONLY | os.O_APPEND)) for name in "ia"}
    os.write(fds["i"][0], b"before")
    for name in "ia": show("set", chattr("+" + name, name))
    for name in "ia": do(name + " appended", lambda: os.write(fds[name][1], b" more"))
    do("i written", lambda: os.write(fds["i"][0], b" more"))
    do("i truncated", lambda: os.ftruncate(fds["i"][0], 0))
    do("a truncated", lambda: os.ftruncate(fds["a"][0], 0))
    for name in "ia": do(name + " fallocate", lambda: fallocate(fds[name][0], 0, 0, 100))
    for name in "ia":
        for fd in fds[name]: os.close(fd)
        chattr("-" + name, name)
    show("i", get("i"))
  `}`,
);

lab.same(
  "who may: root alone i and a, the owner d and A, nobody else any; flags that aren't kept are refused",
  `${PRELUDE}${py`
    os.chmod(".", 0o777)
    put("mine", "x"); os.chown("mine", 1000, 1000); put("roots", "x")
    def user():
        for path in ["mine", "roots"]:
            for flag in ["+d", "+A", "-A", "+i", "+a", "-d"]: show(path + " " + flag, chattr(flag, path))
            show(path, lsattr(path))
    as_user(1000, 1000, user)
    show("+i", chattr("+i", "mine"))
    as_user(1000, 1000, lambda: show("-i", chattr("-i", "mine")))
    show("flags", lsattr("mine")); show("-i by root", chattr("-i", "mine"))
    os.symlink("mine", "link"); os.mkfifo("fifo")
    show("a fifo", chattr("+i", "fifo")) 
  `}`,
  { shows: ["mine +d: 0", "mine +i: 1", "roots +d: 1", "-i: 1", "flags: i"] },
);

test("flags hold on every mount and for the next one; those that aren't kept are refused", async () => {
  const path = join(lab.mount.path, "kept");
  writeFileSync(path, "content");
  await runOk("chattr", ["+i", path]);
  {
    await using second = await TestMount.mount(lab.node, { args: ["-o", "allow_other"] });
    expect(() => unlinkSync(join(second.path, "kept"))).toThrow("EPERM");
    expect(await runOk("lsattr", [join(second.path, "kept")])).toStartWith("----i-");
    expect((await run("chattr", ["+c", join(second.path, "kept")])).stderr).toContain("Operation not supported");
    await runOk("chattr", ["-i", join(second.path, "kept")]);
    writeFileSync(path, "changed");
    await runOk("chattr", ["+i", join(second.path, "kept")]);
    expect(() => writeFileSync(path, "again")).toThrow("EPERM");
    await second.unmount();
  }
  await lab.remount();
  const again = join(lab.mount.path, "kept");
  expect(() => writeFileSync(again, "again")).toThrow("EPERM");
  await runOk("chattr", ["-i", again]);
  unlinkSync(again);
  expect(existsSync(again)).toBe(false);
}, 30_000);
