/** What other users may do on a mount with allow_other, access(2), and mounts without it. */
import { expect, test } from "bun:test";
import { run, TestMount } from "./support/harness.ts";
import { PosixLab, py } from "./support/posix.ts";

const lab = new PosixLab();

lab.same(
  "every mode of files and folders for owner, group, others and root",
  py`
    os.chmod(".", 0o755)
    modes = [0, 0o400, 0o200, 0o100, 0o040, 0o020, 0o010, 0o004, 0o002, 0o001, 0o644, 0o755, 0o700, 0o070, 0o007]
    for mode in modes:
        put(f"f{mode:o}", "#!/bin/sh\nexit 0\n"); os.chown(f"f{mode:o}", 1000, 2000); os.chmod(f"f{mode:o}", mode)
        os.mkdir(f"d{mode:o}"); put(f"d{mode:o}/in", "x"); os.chmod(f"d{mode:o}/in", 0o666); os.chown(f"d{mode:o}", 1000, 2000); os.chmod(f"d{mode:o}", mode)
    def look():
        for mode in modes:
            f, d = f"f{mode:o}", f"d{mode:o}"
            may = lambda function, *args: "y" if attempt(function, *args) else "n"
            show(f"{mode:04o}", "file " + may(get, f) + may(lambda: os.close(os.open(f, os.O_WRONLY))) + may(os.truncate, f, 18) + may(lambda: os.system(f"exec 2>/dev/null; ./{f}") == 0 or raise_(OSError(13, ""))) + may(os.chmod, f, mode)
              + " access " + "".join("y" if os.access(f, how) else "n" for how in [os.R_OK, os.W_OK, os.X_OK, os.F_OK])
              + " folder " + may(os.listdir, d) + may(os.stat, d + "/in") + may(get, d + "/in") + may(lambda: (put(d + "/new"), os.unlink(d + "/new"))) + may(lambda: (os.rename(d + "/in", d + "/in2"), os.rename(d + "/in2", d + "/in")))
              + " access " + "".join("y" if os.access(d, how) else "n" for how in [os.R_OK, os.W_OK, os.X_OK]))
    def attempt(function, *args):
        try: function(*args); return True
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EPERM): show("unexpected", name_of(error))
            return False
    def raise_(error): raise error
    for label, uid, gid, groups in [("owner", 1000, 1000, []), ("group", 1001, 2000, []), ("supplementary group", 1001, 1001, [2000]), ("other", 1001, 1001, []), ("root", 0, 0, [])]:
        show(label); as_user(uid, gid, look, groups)
  `,
);

lab.same(
  "sticky folders: who may remove and rename",
  py`
    os.mkdir("s"); os.chmod("s", 0o1777); os.mkdir("mine"); os.chown("mine", 1000, 1000); os.chmod("mine", 0o1777)
    for folder in ["s", "mine"]:
        for owner in [0, 1000, 1001]:
            for kind in ["f", "d"]:
                path = f"{folder}/{kind}{owner}"; put(path) if kind == "f" else os.mkdir(path); os.chown(path, owner, owner); os.chmod(path, 0o777)
    def user():
        for folder in ["s", "mine"]:
            for owner in [0, 1000, 1001]:
                do(f"{folder}: rename the file of {owner}", os.rename, f"{folder}/f{owner}", f"{folder}/g{owner}"); do("unlink", os.unlink, f"{folder}/f{owner}"); do("unlink", os.unlink, f"{folder}/g{owner}")
                do(f"{folder}: rename the folder of {owner}", os.rename, f"{folder}/d{owner}", f"{folder}/e{owner}"); do("rmdir", os.rmdir, f"{folder}/d{owner}"); do("rmdir", os.rmdir, f"{folder}/e{owner}")
    as_user(1000, 1000, user); tree()
  `,
);

lab.same(
  "open descriptors keep what they may do after chmod and chown",
  py`
    os.chmod(".", 0o777)
    def user():
        fd = os.open("f", os.O_RDWR | os.O_CREAT, 0o600); os.write(fd, b"one"); os.chmod("f", 0)
        do("write", os.write, fd, b"two"); do("read", os.pread, fd, 10, 0); do("ftruncate", os.ftruncate, fd, 4); do("open again", os.open, "f", os.O_RDONLY); do("truncate by name", os.truncate, "f", 1)
        os.fsync(fd); os.close(fd)
    as_user(1000, 1000, user); show("content", get("f"))
    os.chmod("f", 0o644); fd = os.open("f", os.O_RDWR); os.chown("f", 1000, 1000); os.chmod("f", 0o600)
    def other(): do("by an inherited descriptor", os.pwrite, fd, b"IN", 0); do("by name", os.open, "f", os.O_RDONLY)
    as_user(1001, 1001, other); show("content", get("f"))
    os.symlink("f", "l"); os.lchown("l", 1001, 1001)
    as_user(1001, 1001, lambda: do("through my own link", os.open, "l", os.O_RDONLY)); as_user(1000, 1000, lambda: do("through another's link", get, "l"))
  `,
);

test("without allow_other only the one who mounted gets in; uid and gid options change what is shown", async () => {
  const closed = await TestMount.mount(lab.node, { args: ["-o", "uid=1234,gid=2345"] });
  const nobody = (command: string) =>
    run("setpriv", ["--reuid=1000", "--regid=1000", "--clear-groups", "sh", "-c", command], { cwd: closed.path });
  expect(await run("sh", ["-c", "echo x > f && cat f && stat -c %u:%g f"], { cwd: closed.path })).toMatchObject({
    stdout: "x\n1234:2345\n",
    status: 0,
  });
  expect((await nobody("cat f")).stderr).toContain("Permission denied");
  expect((await nobody("ls .")).stderr).toContain("Permission denied");
  await closed.unmount();
}, 30_000);

test("a read-only mount: EROFS for whatever would change it", async () => {
  await lab.python(lab.mount.path, `os.mkdir("for ro"); put("for ro/f", "content"); os.setxattr("for ro/f", "user.a", b"1")`);
  const readOnly = await TestMount.mount(lab.node, { args: ["-o", "ro"] });
  const lines = await lab.python(
    `${readOnly.path}/for ro`,
    py`
      do("read", get, "f"); do("xattr", os.getxattr, "f", "user.a"); do("create", put, "g"); do("open to write", os.open, "f", os.O_WRONLY); do("truncate", os.truncate, "f", 0)
      do("mkdir", os.mkdir, "d"); do("unlink", os.unlink, "f"); do("rename", os.rename, "f", "g"); do("link", os.link, "f", "g"); do("symlink", os.symlink, "f", "g"); do("mknod", os.mkfifo, "p")
      do("chmod", os.chmod, "f", 0); do("chown", os.chown, "f", 1, 1); do("utime", os.utime, "f"); do("setxattr", os.setxattr, "f", "user.b", b""); do("removexattr", os.removexattr, "f", "user.a")
      show("writable", os.access("f", os.W_OK)); show("list", listing())
    `,
  );
  const refused = "create,open to write,truncate,mkdir,unlink,rename,link,symlink,mknod,chmod,chown,utime,setxattr,removexattr".split(",");
  expect(lines).toEqual([
    "read: b'content'",
    "xattr: b'1'",
    ...refused.map((label) => `${label}: EROFS`),
    "writable: False",
    "list: ['f']",
  ]);
  await readOnly.unmount();
}, 30_000);
