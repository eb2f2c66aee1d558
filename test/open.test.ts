/** open(2) and its flags. */
import { PosixLab, py } from "./support/posix.ts";

const lab = new PosixLab();

lab.same(
  "O_CREAT and O_EXCL over every kind of name",
  py`
    put("file", "content"); os.mkdir("folder"); os.symlink("file", "link"); os.symlink("nowhere", "dangling"); os.mkfifo("fifo")
    os.symlink("loop", "loop"); os.symlink("folder", "folder link")
    names = ["file", "folder", "link", "dangling", "loop", "folder link", "fresh", "missing/x", "file/x", "n" * 256, ""]
    flag_sets = {"CREAT": os.O_CREAT, "CREAT|EXCL": os.O_CREAT | os.O_EXCL, "CREAT|TRUNC": os.O_CREAT | os.O_TRUNC,
                 "EXCL": os.O_EXCL, "none": 0, "NOFOLLOW": os.O_NOFOLLOW, "DIRECTORY": os.O_DIRECTORY,
                 "CREAT|NOFOLLOW": os.O_CREAT | os.O_NOFOLLOW, "APPEND": os.O_APPEND, "TRUNC": os.O_TRUNC}
    for flag_name, flags in flag_sets.items():
        for access_name, access in [("RDONLY", os.O_RDONLY), ("WRONLY", os.O_WRONLY), ("RDWR", os.O_RDWR)]:
            for name in names:
                fd = ok(f"{flag_name} {access_name} {name[:20]!r}", os.open, name, flags | access, 0o640)
                if fd is not None:
                    show("  it", st(fd))
                    os.close(fd)
                for made in ["fresh", "nowhere"]:
                    if os.path.lexists(made): os.unlink(made)
            put("file", "content")
    tree()
  `,
  {
    shows: [
      "CREAT|EXCL RDWR 'file': EEXIST",
      "CREAT|EXCL RDWR 'dangling': EEXIST",
      "none RDONLY 'loop': ELOOP",
      "none RDWR 'folder': EISDIR",
    ],
  },
);

lab.same(
  "the mode of a new file: umask, and a handle that may do what the mode forbids",
  py`
    for mask in [0, 0o022, 0o077, 0o777]:
        os.umask(mask)
        for mode in [0, 0o400, 0o644, 0o666, 0o777, 0o7777]:
            fd = os.open("f", os.O_RDWR | os.O_CREAT | os.O_EXCL, mode)
            do(f"umask {mask:o}, mode {mode:o}", st, fd)
            os.write(fd, b"w"); do("reads", os.pread, fd, 1, 0)
            os.close(fd); os.unlink("f")
            os.mkdir("d", mode); do(f"folder, umask {mask:o}, mode {mode:o}", st, "d"); os.rmdir("d")
            os.mkfifo("p", mode); do(f"fifo, umask {mask:o}, mode {mode:o}", st, "p"); os.unlink("p")
    os.umask(0)
    os.chmod(".", 0o777)
    def user():
        fd = os.open("mine", os.O_RDWR | os.O_CREAT, 0)
        do("written", os.write, fd, b"through a mode of 0")
        do("opened again", os.open, "mine", os.O_RDONLY)
        os.close(fd)
    as_user(1000, 1000, user)
    show_stat("mine")
  `,
);

lab.same(
  "access modes hold: EBADF",
  py`
    put("f", "content")
    for name, flags in [("RDONLY", os.O_RDONLY), ("WRONLY", os.O_WRONLY), ("RDWR", os.O_RDWR), ("PATH", os.O_PATH)]:
        fd = os.open("f", flags)
        do(f"{name}: read", os.pread, fd, 3, 0)
        do(f"{name}: write", os.pwrite, fd, b"C", 0)
        do(f"{name}: truncate", os.ftruncate, fd, 7)
        do(f"{name}: fallocate", fallocate, fd, 0, 0, 4)
        do(f"{name}: fsync", os.fsync, fd)
        do(f"{name}: fchmod", os.fchmod, fd, 0o644)
        do(f"{name}: fstat", st, fd)
        os.close(fd)
    fd = os.open(".", os.O_RDONLY)
    do("read a folder", os.read, fd, 10)
    do("write a folder", os.write, fd, b"x")
    do("truncate a folder", os.ftruncate, fd, 0)
    do("fsync a folder", os.fsync, fd)
    do("fdatasync a folder", os.fdatasync, fd)
    do("seek beyond", os.lseek, fd, 0, os.SEEK_SET)
  `,
);

lab.same(
  "O_TRUNC empties, also what was just written; times move",
  py`
    put("f", pattern(100000))
    moved("O_TRUNC", "f", lambda: os.close(os.open("f", os.O_WRONLY | os.O_TRUNC)))
    show_stat("f")
    moved("O_TRUNC of an empty file", "f", lambda: os.close(os.open("f", os.O_WRONLY | os.O_TRUNC)))
    fd = os.open("f", os.O_RDWR); os.write(fd, pattern(5000))
    other = os.open("f", os.O_RDWR | os.O_TRUNC)
    do("first handle", os.pread, fd, 10, 0)
    os.write(fd, b"goes on at its offset")
    show("size", os.fstat(other).st_size)
    show("content", digest(get("f")))
    do("read only with O_TRUNC", lambda: os.close(os.open("f", os.O_RDONLY | os.O_TRUNC)))
    show_stat("f")
  `,
);

lab.same(
  "O_APPEND: every write lands at the end, whatever the offset says",
  py`
    put("f", "start")
    a = os.open("f", os.O_RDWR | os.O_APPEND)
    b = os.open("f", os.O_WRONLY | os.O_APPEND)
    plain = os.open("f", os.O_RDWR)
    os.write(a, b"-a"); os.write(b, b"-b")
    do("position", os.lseek, a, 0, os.SEEK_CUR)
    os.lseek(a, 0, os.SEEK_SET); do("position", os.lseek, a, 0, os.SEEK_CUR)
    do("read", os.read, a, 3)
    os.write(a, b"-a2"); do("position", os.lseek, a, 0, os.SEEK_CUR)
    # Linux: pwrite on an O_APPEND descriptor appends (pwrite(2), BUGS).
    do("pwrite", os.pwrite, a, b"-pwrite", 0)
    os.pwrite(plain, b"START", 0)
    os.ftruncate(plain, 100); os.write(b, b"-after the hole")
    show("content", get("f"))
    os.ftruncate(plain, 3); os.write(a, b"-again")
    show("content", get("f"))
    fcntl.fcntl(plain, fcntl.F_SETFL, os.O_APPEND); os.lseek(plain, 0, os.SEEK_SET); os.write(plain, b"-by fcntl")
    show("content", get("f"))
    fcntl.fcntl(a, fcntl.F_SETFL, 0); os.lseek(a, 0, os.SEEK_SET); os.write(a, b"no longer")
    for fd in [a, b, plain]: os.close(fd)
    show("content", get("f"))
  `,
);

lab.same(
  "eight processes append at once and lose nothing",
  py`
    put("log")
    def appender(number):
        fd = os.open("log", os.O_WRONLY | os.O_APPEND)
        for i in range(200): os.write(fd, f"{number} {i:04d} {'x' * (i % 50)}\n".encode())
        os.close(fd)
    sys.stdout.flush()
    children = []
    for number in range(8):
        child = os.fork()
        if child == 0:
            appender(number); os._exit(0)
        children.append(child)
    show("statuses", [os.waitpid(child, 0)[1] for child in children])
    lines = get("log").decode().splitlines()
    show("lines", len(lines))
    for number in range(8):
        mine = [line for line in lines if line.startswith(f"{number} ")]
        show(number, mine == [f"{number} {i:04d} {'x' * (i % 50)}" for i in range(200)])
  `,
  { shows: ["lines: 1600", "7: True"] },
);

lab.same(
  "O_DIRECT: aligned reads and writes, and what buffered handles see of them",
  py`
    direct = os.open("f", os.O_RDWR | os.O_CREAT | os.O_DIRECT, 0o644)
    buffered = os.open("f", os.O_RDWR)
    data = pattern(65536)
    do("write", os.pwrite, direct, aligned(65536, data), 0)
    show("buffered read", digest(os.pread(buffered, 65536, 0)))
    memory = aligned(65536)
    do("direct read", os.preadv, direct, [memory], 0); show("same", bytes(memory) == data)
    os.pwrite(buffered, b"buffered", 4096)
    memory = aligned(8192)
    do("direct read of buffered data", os.preadv, direct, [memory], 0)
    show("has it", bytes(memory[4096:4104]))
    os.pwrite(direct, aligned(4096, pattern(4096, 2)), 8192)
    show("buffered read of direct data", digest(os.pread(buffered, 4096, 8192)))
    memory = aligned(8192)
    do("read at the end", os.preadv, direct, [memory], 61440)
    do("read beyond the end", os.preadv, direct, [memory], 65536)
    do("write beyond the end", os.pwrite, direct, aligned(4096, pattern(4096, 3)), 131072)
    os.close(direct); os.close(buffered)
    show("content", digest(get("f")))
  `,
);

lab.same(
  "many handles of one file see each other's writes at once",
  py`
    fds = [os.open("f", flags | os.O_CREAT, 0o644) for flags in [os.O_WRONLY, os.O_RDWR, os.O_RDWR | os.O_APPEND, os.O_RDONLY]]
    w, rw, ap, r = fds
    os.write(w, b"one "); show("r", os.pread(r, 100, 0)); show("rw", os.pread(rw, 100, 0))
    os.write(ap, b"two "); show("r", os.pread(r, 100, 0))
    os.pwrite(rw, b"ONE", 0); show("r", os.pread(r, 100, 0)); show("size", os.fstat(r).st_size)
    os.ftruncate(w, 2); show("r", os.pread(r, 100, 0))
    os.close(w); show("r", os.pread(r, 100, 0))
    twin = os.dup(r); os.read(r, 1); show("shared position", os.lseek(twin, 0, os.SEEK_CUR))
    fork_do(lambda: (os.pwrite(rw, b"child", 10), None)[1])
    show("r", os.pread(r, 100, 0))
    again = os.open("/proc/self/fd/%d" % r, os.O_RDWR); show("through /proc", os.pread(again, 5, 10))
  `,
);
