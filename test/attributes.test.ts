/** stat, utimensat, chmod, chown, and the set-id bits. */
import { PosixLab, py } from "./support/posix.ts";

const lab = new PosixLab();

lab.same(
  "utimensat: nanoseconds, NOW, OMIT, times before 1970 and far from it",
  py`
    put("f", "x"); os.symlink("f", "l"); os.mkdir("d")
    def look(path): s = os.lstat(path); return (s.st_atime_ns, s.st_mtime_ns)
    stamps = [(0, 0), (1, 1), (1_234_567_890, 123_456_789), (1_700_000_000, 999_999_999), (-1, 0), (-1, 999_999_999), (-2_000_000_000, 5),
              (2**31 - 1, 0), (2**31, 1), (2**32, 2), (10_000_000_000, 3)]
    for path in ["f", "d", "l"]:
        for a in stamps:
            do(f"{path} {a}", utimensat, path, a, stamps[3], 0x100); show("  is", look(path))
            do(f"{path} {a}", utimensat, path, stamps[2], a, 0x100); show("  is", look(path))
    for path in ["f", "d"]:
        utimensat(path, (1000, 1), (2000, 2))
        do("omit both", utimensat, path, (0, UTIME_OMIT), (0, UTIME_OMIT)); show("is", look(path))
        do("omit atime", utimensat, path, (0, UTIME_OMIT), (3000, 3)); show("is", look(path))
        do("omit mtime", utimensat, path, (4000, 4), (0, UTIME_OMIT)); show("is", look(path))
        now = time.time_ns()
        do("atime now", utimensat, path, (0, UTIME_NOW), (0, UTIME_OMIT)); show("is", (abs(look(path)[0] - now) < 10**9, look(path)[1]))
        do("mtime now", utimensat, path, (5000, 5), (0, UTIME_NOW)); show("is", (look(path)[0], abs(look(path)[1] - now) < 10**9))
        do("both now", os.utime, path); s = os.stat(path); show("the same", s.st_atime_ns == s.st_mtime_ns)
        do("wrong nanoseconds", utimensat, path, (0, 10**9), (0, 0)); do("negative nanoseconds", utimensat, path, (0, -1), (0, 0))
        moved("times set", path, utimensat, path, (1, 1), (10**10, 1))
    do("missing", utimensat, "missing", (0, 0), (0, 0))
    do("through the link", utimensat, "l", (77, 7), (88, 8)); show("file", look("f"))
    fd = os.open("f", os.O_RDWR); os.write(fd, b"dirty"); do("while dirty", futimens, fd, (9, 9), (10, 10)); show("is", look("f")); os.fsync(fd); show("synced", look("f"))
    os.write(fd, b"more"); os.close(fd); show("atime stays", look("f")[0])
    moved("ctime moves on its own", "f", os.utime, "f", ns=(1, os.stat("f").st_mtime_ns))
  `,
);

lab.same(
  "utimensat: who may",
  py`
    os.chmod(".", 0o777); put("root's", "x"); os.chmod("root's", 0o644); put("writable", "x"); os.chmod("writable", 0o666); put("mine", "x"); os.chown("mine", 1000, 1000); os.chmod("mine", 0o400)
    def user():
        for path in ["root's", "writable", "mine"]:
            do(f"{path} to now", os.utime, path)
            do(f"{path} to a time", os.utime, path, ns=(1, 2))
            do(f"{path} one now, one omitted", utimensat, path, (0, UTIME_NOW), (0, UTIME_OMIT))
            do(f"{path} both omitted", utimensat, path, (0, UTIME_OMIT), (0, UTIME_OMIT))
    as_user(1000, 1000, user)
  `,
);

lab.same(
  "chmod: every bit, every kind, who may",
  py`
    put("f"); os.mkdir("d"); os.symlink("f", "l"); os.mkfifo("p")
    for path in ["f", "d", "l", "p"]:
        for mode in [0, 0o777, 0o644, 0o4755, 0o2755, 0o1777, 0o7777, 0o2644]:
            do(f"chmod {path} {mode:o}", os.chmod, path, mode); do("  is", st, path, True)
    moved("times", ["f", "."], os.chmod, "f", 0o600)
    do("missing", os.chmod, "missing", 0)
    do("the link itself", os.chmod, "l", 0o600, follow_symlinks=False) if os.chmod in os.supports_follow_symlinks else None
    put("root's"); put("mine"); os.chown("mine", 1000, 1000); put("mine, group 5"); os.chown("mine, group 5", 1000, 5); os.mkdir("my folder"); os.chown("my folder", 1000, 5)
    def user():
        for path in ["root's", "mine", "mine, group 5", "my folder"]:
            for mode in [0o640, 0o2755, 0o4755, 0o6777, 0o1777]:
                do(f"user: chmod {path} {mode:o}", os.chmod, path, mode); do("  is", st, path)
    as_user(1000, 1000, user)
    as_user(1000, 1000, lambda: do("member of group 5", lambda: (os.chmod("mine, group 5", 0o2755), st("mine, group 5"))[1]), [5])
    fd = os.open("f", os.O_RDWR); os.write(fd, b"dirty"); do("while dirty", os.fchmod, fd, 0o444); show_stat("f"); os.close(fd); show_stat("f")
  `,
);

lab.same(
  "chown: who may, and what becomes of the set-id bits",
  py`
    for kind in ["file", "folder", "symlink"]:
        for mode in [0o6755, 0o6745, 0o2745, 0o4644, 0o777]:
            for uid, gid in [(1000, 1000), (-1, 1000), (1000, -1), (0, 0)]: # of (-1, -1) FUSE is not told
                if kind == "file": put("x"); os.chmod("x", mode)
                elif kind == "folder": os.mkdir("x"); os.chmod("x", mode)
                else: os.symlink("y", "x")
                do(f"{kind} {mode:o} to {uid}:{gid}", os.lchown, "x", uid, gid); do("  is", st, "x")
                os.rmdir("x") if kind == "folder" else os.unlink("x")
    os.chmod(".", 0o777)
    for owner in [0, 1000]:
        for mode in [0o6755, 0o2745]:
            for uid, gid in [(1000, 1000), (-1, 5), (-1, 6), (1001, -1), (1000, -1)]:
                put("x"); os.chown("x", owner, 1000); os.chmod("x", mode)
                as_user(1000, 1000, lambda: do(f"user: of {owner}, {mode:o} to {uid}:{gid}", os.chown, "x", uid, gid), [1000, 5]); do("  is", st, "x")
                os.unlink("x")
    put("f"); moved("times", ["f", "."], os.chown, "f", 7, 8); moved("unchanged owner", ["f"], os.chown, "f", 7, 8)
    do("missing", os.chown, "missing", 0, 0); do("large ids", os.chown, "f", 2**32 - 2, 4_000_000_000); show_stat("f")
    fd = os.open("f", os.O_RDWR); os.write(fd, b"dirty"); do("while dirty", os.fchown, fd, 1, 2); show_stat("f"); os.close(fd); show_stat("f")
  `,
);

lab.same(
  "set-id bits end when somebody without privileges changes the content",
  py`
    actions = {
        "write": lambda path: with_fd(path, os.O_WRONLY, lambda fd: (os.write(fd, b"x"), None)[1]),
        "write by an appending handle": lambda path: with_fd(path, os.O_WRONLY | os.O_APPEND, lambda fd: (os.write(fd, b"x"), None)[1]),
        "direct write": lambda path: with_fd(path, os.O_WRONLY | os.O_DIRECT, lambda fd: (os.write(fd, aligned(4096)), None)[1]),
        "truncate": lambda path: os.truncate(path, 1),
        "ftruncate": lambda path: with_fd(path, os.O_WRONLY, lambda fd: os.ftruncate(fd, 2)),
        "O_TRUNC": lambda path: with_fd(path, os.O_WRONLY | os.O_TRUNC, lambda fd: None),
        "fallocate": lambda path: with_fd(path, os.O_RDWR, lambda fd: fallocate(fd, 0, 0, 10)),
        "punch hole": lambda path: with_fd(path, os.O_RDWR, lambda fd: fallocate(fd, PUNCH_HOLE | KEEP_SIZE, 0, 10)),
        "copy_file_range": lambda path: with_fd(path, os.O_RDWR, lambda fd: with_fd("source", os.O_RDONLY, lambda source: (os.copy_file_range(source, fd, 5), None)[1])),
        "read": lambda path: get(path) and None,
        "chmod to the same": lambda path: os.chmod(path, os.stat(path).st_mode & 0o7777),
        "utime": lambda path: os.utime(path),
        "empty write": lambda path: with_fd(path, os.O_WRONLY, lambda fd: (os.write(fd, b""), None)[1]),
        "xattr": lambda path: os.setxattr(path, "user.x", b"1"),
        "link": lambda path: (os.link(path, path + "2"), os.unlink(path + "2"))[1],
    }
    put("source", "hello"); os.chmod(".", 0o777)
    for who, uid, groups in [("owner", 1000, []), ("stranger", 1001, []), ("member", 1001, [5, 1000]), ("root", 0, [])]:
        for name, action in actions.items():
            # A set-gid bit without the group's execute bit stays when a member of the group writes.
            for mode in [0o6777, 0o4777, 0o2777, 0o6767, 0o6766]:
                path = f"{who} {name} {mode:o}"
                put(path, "content"); os.chown(path, 1000, 1000); os.chmod(path, mode)
                as_user(uid, uid, lambda: do(path, action, path), groups)
                do("  is", st, path)
  `,
);

lab.same(
  "setgid folders pass their group and the bit on",
  py`
    os.umask(0o022); os.mkdir("g"); os.chown("g", 0, 500); os.chmod("g", 0o2777); os.mkdir("plain"); os.chmod("plain", 0o777); os.chown("plain", 0, 500)
    for who, uid, gid in [("root", 0, 0), ("user", 1000, 1000)]:
        def make():
            for folder in ["g", "plain"]:
                put(f"{folder}/{who} file"); os.mkdir(f"{folder}/{who} folder"); os.mkfifo(f"{folder}/{who} fifo"); os.symlink("x", f"{folder}/{who} link")
                os.mkdir(f"{folder}/{who} folder/below"); put(f"{folder}/{who} folder/file")
                fd = os.open(f"{folder}/{who} set-gid file", os.O_CREAT | os.O_WRONLY, 0o2775); os.close(fd)
                fd = os.open(f"{folder}/{who} set-gid file without x", os.O_CREAT | os.O_WRONLY, 0o2664); os.close(fd)
                os.mknod(f"{folder}/{who} set-id mknod", 0o6775)
        as_user(uid, gid, make)
    tree()
  `,
);

lab.same(
  "ctime and mtime are taken when the change is made, and never run backwards",
  py`
    put("f"); before = time.time_ns(); time.sleep(0.01)
    os.chmod("f", 0o600); show("ctime", before < os.stat("f").st_ctime_ns <= time.time_ns())
    last = 0; steady = True
    for i in range(200):
        with_fd("f", os.O_WRONLY, lambda fd: (os.write(fd, b"x"), None)[1]); s = os.stat("f")
        steady = steady and s.st_mtime_ns >= last and s.st_ctime_ns >= s.st_mtime_ns; last = s.st_mtime_ns
    show("steady", steady)
    os.mkdir("d"); last = 0; steady = True
    for i in range(200):
        put(f"d/{i}"); s = os.stat("d"); steady = steady and s.st_mtime_ns >= last; last = s.st_mtime_ns
    show("folder", steady)
    fd = os.open("f", os.O_RDWR); os.utime("f", ns=(5, 5)); os.close(fd); time.sleep(1.1); show("a time that was set stays", os.stat("f").st_mtime_ns)
    os.utime("d", ns=(6, 6)); show("folder", os.stat("d").st_mtime_ns); put("d/new"); show("changed", os.stat("d").st_mtime_ns > 6)
  `,
  { shows: ["ctime: True", "steady: True", "folder: True", "changed: True"] },
);

lab.prints(
  "reading moves no atime",
  py`
    put("f", pattern(10_000)); os.mkdir("d"); os.symlink("f", "l"); old = (5, 7)
    for path in ["f", "d", "l"]: os.utime(path, ns=old, follow_symlinks=False)
    get("f"); with_fd("f", os.O_RDWR, lambda fd: os.pread(fd, 100, 0)); os.listdir("d"); os.readlink("l"); with_fd("f", os.O_RDONLY, lambda fd: mmap.mmap(fd, 0, prot=mmap.PROT_READ)[:])
    for path in ["f", "d", "l"]: show(path, (os.lstat(path).st_atime_ns, os.lstat(path).st_mtime_ns) == old)
  `,
  ["f: True", "d: True", "l: True"],
);
