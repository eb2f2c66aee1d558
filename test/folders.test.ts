/** mkdir, rmdir, readdir, link counts, and folders that change while they are read. */
import { PosixLab, py } from "./support/posix.ts";

const lab = new PosixLab();

lab.same(
  "mkdir and rmdir: results and errors",
  py`
    os.mkdir("d"); put("f"); os.symlink("d", "l"); os.symlink("nowhere", "dangling"); os.mkdir("full"); os.mkdir("full/x")
    for path in ["d", "f", "l", "dangling", "missing/x", "f/x", ".", "..", "/", "", "n" * 255, "n" * 256, "d/", "new/", "l/sub", "d/.", "d/sub/.."]:
        do(f"mkdir {path[:20]!r}", os.mkdir, path)
    tree()
    for path in ["f", "l", "dangling", "missing", "missing/x", "f/x", ".", "full", "full/.", "full/..", "", "n" * 256, "n" * 255, "l/", "d/sub", "d", "d", "new/"]:
        do(f"rmdir {path[:20]!r}", os.rmdir, path)
    do("unlink a folder", os.unlink, "full")
    do("rmdir the root of a mount or anything busy", os.rmdir, "full/x/..")
    tree()
  `,
);

lab.same(
  "link counts and times of folders",
  py`
    os.mkdir("p")
    def count(): show("p", st("p"))
    count()
    for name in "abc": os.mkdir("p/" + name); count()
    put("p/file"); os.symlink("x", "p/link"); os.mkfifo("p/fifo"); count()
    os.rmdir("p/a"); count()
    os.rename("p/b", "elsewhere"); count(); os.rename("elsewhere", "p/b"); count()
    moved("mkdir", ["p", "."], os.mkdir, "p/x")
    moved("rmdir", ["p", "."], os.rmdir, "p/x")
    moved("create", ["p", "."], put, "p/y")
    moved("create what exists", ["p"], lambda: os.close(os.open("p/y", os.O_CREAT | os.O_WRONLY)))
    moved("write", ["p"], put, "p/y", "more")
    moved("unlink", ["p"], os.unlink, "p/y")
    moved("symlink", ["p"], os.symlink, "t", "p/s")
    moved("link", ["p", "p/file"], os.link, "p/file", "p/file2")
    moved("unlink of one of two names", ["p", "p/file"], os.unlink, "p/file2")
    moved("mknod", ["p"], os.mkfifo, "p/ff")
    moved("refused mkdir", ["p"], os.mkdir, "p/b")
    moved("refused rmdir", ["p"], os.rmdir, "p/file")
    moved("listing", ["p"], os.listdir, "p")
    count()
  `,
);

lab.same(
  "a folder that is removed while it is open or the working directory",
  py`
    os.makedirs("d/inner"); fd = os.open("d/inner", os.O_RDONLY); os.chdir("d/inner")
    do("rmdir", os.rmdir, "../inner")
    do("stat", st, fd); do("stat .", st, ".")
    do("list", os.listdir, fd); do("list .", os.listdir, ".")
    do("create in it", put, "x"); do("mkdir in it", os.mkdir, "x"); do("symlink", os.symlink, "a", "x"); do("fifo", os.mkfifo, "x")
    do("rename into it", os.rename, "/proc/self/cwd/../nothing", "x")
    do("look up", os.stat, "x")
    do("chmod", os.chmod, fd, 0o700); do("fsync", os.fsync, fd)
    os.chdir("/")
  `,
);

lab.same(
  "readdir: names, types, dot and dot dot",
  py`
    put("file"); os.mkdir("folder"); os.symlink("x", "link"); os.mkfifo("fifo")
    s = socket.socket(socket.AF_UNIX); s.bind("socket")
    with os.scandir(".") as entries:
        found = sorted((e.name, e.is_file(follow_symlinks=False), e.is_dir(follow_symlinks=False), e.is_symlink(), e.inode() == e.stat(follow_symlinks=False).st_ino) for e in entries)
    for entry in found: show("entry", entry)
    libc.opendir.restype = ctypes.c_void_p
    libc.readdir.restype = ctypes.c_void_p; libc.readdir.argtypes = [ctypes.c_void_p]
    def raw(path):
        handle, names = libc.opendir(path.encode()), []
        while entry := libc.readdir(handle):
            ino, _, _, kind = struct.unpack("QqHB", ctypes.string_at(entry, 19))
            names.append((ctypes.string_at(entry + 19).decode(), kind, ino))
        libc.closedir(ctypes.c_void_p(handle)); return names
    names = raw("folder")
    show("empty folder", sorted(name for name, _, _ in names))
    show("dot", dict((n, i) for n, _, i in names)["."] == os.stat("folder").st_ino)
    show("dot dot", dict((n, i) for n, _, i in names)[".."] == os.stat(".").st_ino)
    show("types", sorted((name, kind) for name, kind, _ in raw(".")))
    do("list a file", os.listdir, "file"); do("list nothing", os.listdir, "missing")
  `,
  { shows: ["dot: True", "dot dot: True", "empty folder: ['.', '..']"] },
);

/** getdents64(2) with positions, in small steps. */
const DENTS = py`
  def dents(fd, size=400):
      buffer = ctypes.create_string_buffer(size)
      count = check(libc.syscall(217, fd, buffer, size))
      found, at = [], 0
      while at < count:
          ino, off, reclen, kind = struct.unpack_from("QqHB", buffer, at)
          found.append((buffer.raw[at + 19:at + reclen].split(b"\0")[0].decode(), off))
          at += reclen
      return found
`;

lab.prints(
  "positions stay valid while entries come and go: what stays is seen exactly once",
  py`
    ${DENTS.replaceAll("\n", "\n    ")}
    stay = {f"stay {i:04d}" for i in range(1500)}
    for name in sorted(stay): put(name)
    for i in range(500): put(f"goes {i:04d}")
    fd = os.open(".", os.O_RDONLY)
    seen, step = [], 0
    while batch := dents(fd):
        seen += [name for name, _ in batch]
        if step < 500: os.unlink(f"goes {step:04d}")
        put(f"comes {step:04d}"); step += 1
    names = [name for name in seen if name.startswith("stay")]
    show("each once", len(names) == 1500 and set(names) == stay)
    others = [name for name in seen if not name.startswith("stay")]
    show("no name twice", len(others) == len(set(others)))
    # telldir and seekdir: from any position the same rest follows
    os.lseek(fd, 0, os.SEEK_SET)
    order = []
    while batch := dents(fd): order += batch
    for index in [0, 1, 2, 3, 100, 777, len(order) - 2]:
        os.lseek(fd, order[index][1], os.SEEK_SET)
        rest = []
        while batch := dents(fd, 4000): rest += batch
        show(f"from entry {index if index < 1000 else 'n'}", rest == order[index + 1:])
    # a position whose entry is gone
    victim = next(i for i, (name, _) in enumerate(order) if i > 500 and name.startswith("comes"))
    os.unlink(order[victim][0]); os.lseek(fd, order[victim][1], os.SEEK_SET)
    rest = []
    while batch := dents(fd, 4000): rest += batch
    show("after a removed entry", rest == order[victim + 1:])
    os.lseek(fd, 0, os.SEEK_SET); put("made after the first pass")
    again = []
    while batch := dents(fd, 4000): again += [name for name, _ in batch]
    show("rewinding shows what is new", "made after the first pass" in again)
  `,
  [
    "each once: True",
    "no name twice: True",
    ...[0, 1, 2, 3, 100, 777, "n"].map((index) => `from entry ${index}: True`),
    "after a removed entry: True",
    "rewinding shows what is new: True",
  ],
);

lab.prints(
  "rm -r of what is being read: removing every entry of each batch reaches them all",
  py`
    ${DENTS.replaceAll("\n", "\n    ")}
    for i in range(3000): put(f"{i}")
    fd = os.open(".", os.O_RDONLY)
    while batch := dents(fd, 1000):
        for name, _ in batch:
            if name not in (".", ".."): os.unlink(name)
    show("left", os.listdir("."))
  `,
  ["left: []"],
);

lab.prints(
  "100,000 entries: made, listed, found by name, removed",
  py`
    os.mkdir("big")
    def part(which):
        for i in range(which, 100_000, 4):
            os.mknod(f"big/entry {i:06d}", 0o644)
    children = []
    for which in range(4):
        child = os.fork()
        if child == 0: part(which); os._exit(0)
        children.append(child)
    show("made", all(os.waitpid(child, 0)[1] == 0 for child in children))
    names = os.listdir("big")
    show("listed", (len(names), len(set(names))))
    show("right", set(names) == {f"entry {i:06d}" for i in range(100_000)})
    with os.scandir("big") as entries: show("with attributes", sum(e.stat().st_nlink for e in entries))
    show("found", all(os.path.exists(f"big/entry {i:06d}") for i in range(0, 100_000, 997)))
    show("not found", any(os.path.exists(f"big/entry {i:06d}x") for i in range(0, 100_000, 9970)))
    do("not empty", os.rmdir, "big")
    for i in range(0, 100_000, 100): os.unlink(f"big/entry {i:06d}")
    show("left", len(os.listdir("big")))
    show_stat("big")
  `,
  [
    "made: True",
    "listed: (100000, 100000)",
    "right: True",
    "with attributes: 100000",
    "found: True",
    "not found: False",
    "not empty: ENOTEMPTY",
    "left: 99000",
    "stat 'big': 'folder, 0755, nlink 2, 0:0'",
  ],
  240_000,
);

lab.same(
  "deep trees: a path of 4095 bytes works, one of 4096 does not",
  py`
    name = "d" * 200
    path = ""
    while len(path) + 201 < 4000: path += name + "/"; os.mkdir(path)
    rest = 4095 - len(path)
    do("create at 4095 bytes", put, path + "f" * min(rest, 255), "deep")
    longest = path + "g" * min(rest, 255)
    show("length", len(longest))
    do("create", put, longest, "deep"); do("read", get, longest)
    do("one more", put, longest + "x")
    do("stat one more", lambda: os.stat(longest + "x" * 200))
    do("symlink to it", os.symlink, longest, "link"); do("read through it", get, "link")
    do("too long a target", os.symlink, "t" * 4096, "link2"); do("longest target", os.symlink, "t" * 4095, "link2"); show("target", len(os.readlink("link2")))
    depth = 0
    for _ in range(60): os.mkdir("sub"); os.chdir("sub"); depth += 1
    put("bottom", "b"); show("bottom", get("bottom"))
  `,
);
