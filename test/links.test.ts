/** link, symlink, readlink, unlink, and files without a name. */
import { PosixLab, py } from "./support/posix.ts";

const lab = new PosixLab();

lab.same(
  "link: results and errors",
  py`
    put("f", "content"); os.mkdir("d"); os.symlink("f", "l"); os.mkfifo("p"); os.symlink("nowhere", "dangling")
    do("link", os.link, "f", "f2"); do("of a fifo", os.link, "p", "p2"); do("of a symlink", os.link, "l", "l2", follow_symlinks=False)
    do("of what a symlink names", os.link, "l", "l3", follow_symlinks=True)
    do("of a folder", os.link, "d", "d2"); do("of nothing", os.link, "missing", "x"); do("over a file", os.link, "f", "f2")
    do("over a folder", os.link, "f", "d"); do("over a dangling link", os.link, "f", "dangling")
    do("into nothing", os.link, "f", "missing/x"); do("below a file", os.link, "f", "f/x"); do("too long", os.link, "f", "n" * 256)
    do("longest", os.link, "f", "n" * 255); do("a slash", os.link, "f", "x/")
    tree()
    with open("f2", "ab") as file: file.write(b" more")
    os.chmod("f", 0o600); show("both", (get("f"), get("f2"))); show_stat("f2")
    show("one inode", os.stat("f").st_ino == os.stat("f2").st_ino)
    for name in ["f", "f2", "l3", "n" * 255]: os.unlink(name); show("left", [st(n) for n in listing() if n in ("f", "f2", "l3", "n" * 255)])
    tree()
  `,
);

lab.same(
  "500 names of one file",
  py`
    put("f", "x")
    for i in range(500): os.link("f", f"name {i}")
    show_stat("f")
    for i in range(0, 500, 2): os.unlink(f"name {i}")
    show_stat("name 1"); os.unlink("f"); show_stat("name 499"); show("content", get("name 3"))
  `,
);

lab.same(
  "symlinks: any target, kept byte by byte",
  py`
    targets = ["f", "nowhere", "/", "../..", "a" * 255, "b" * 4095, "with space", "ü", b"\xff\xfe", "./x/../y", "trailing/"]
    for number, target in enumerate(targets):
        name = os.fsencode(str(number))
        do(f"make {number}", os.symlink, os.fsencode(target), name)
        show(f"read {number}", os.readlink(name) == os.fsencode(target)); show_stat(os.fsdecode(name))
    do("empty target", os.symlink, "", "e"); do("4096", os.symlink, "b" * 4096, "e"); do("over a name", os.symlink, "x", "0")
    do("readlink of a file", lambda: (put("f"), os.readlink("f"))); do("of a folder", os.readlink, "."); do("of nothing", os.readlink, "missing")
    os.symlink("loop2", "loop1"); os.symlink("loop1", "loop2"); do("a loop", get, "loop1")
    os.symlink(".", "here"); do("through 39 links", st, "here/" * 39 + "f"); do("through 41 links", st, "here/" * 41 + "f")
    do("chmod through", os.chmod, "0", 0o640); show_stat("f")
    do("owner of the link itself", os.lchown, "0", 5, 6); show_stat("0"); show_stat("f")
    do("removed", os.unlink, "0"); show_stat("f")
    buffer = ctypes.create_string_buffer(3); os.symlink("longer", "cut")
    do("cut to the buffer", lambda: (check(libc.readlink(b"cut", buffer, 3)), buffer.raw))
  `,
);

lab.same(
  "unlink: errors",
  py`
    put("f"); os.mkdir("d"); os.symlink("d", "l")
    for path in ["d", "missing", "f/x", "missing/x", "", "n" * 256, ".", "..", "l/", "f/", "d/"]: do(f"unlink {path[:20]!r}", os.unlink, path)
    do("a link to a folder", os.unlink, "l"); do("a file", os.unlink, "f"); do("again", os.unlink, "f"); tree()
  `,
);

lab.same(
  "a file lives on without a name until its last descriptor is closed",
  py`
    for synced in [False, True]:
        fd = os.open("f", os.O_RDWR | os.O_CREAT, 0o644); second = os.open("f", os.O_RDONLY)
        os.write(fd, pattern(200_000))
        if synced: os.fsync(fd)
        os.unlink("f")
        show("gone", os.path.exists("f")); show("stat", st(fd))
        show("read", digest(os.pread(second, 10**6, 0)))
        do("write", os.pwrite, fd, pattern(300_000, 2), 100_000); show("read", digest(os.pread(second, 10**6, 0)))
        do("truncate", os.ftruncate, fd, 50_000); show("read", digest(os.pread(second, 10**6, 0)))
        do("fsync", os.fsync, fd); do("chmod", os.fchmod, fd, 0o600); do("chown", os.fchown, fd, 3, 4); do("times", os.utime, fd, ns=(1, 2))
        do("xattr", os.setxattr, fd, "user.x", b"1"); do("xattr", os.getxattr, fd, "user.x")
        do("fallocate", fallocate, fd, 0, 0, 100_000); do("punch", fallocate, fd, PUNCH_HOLE | KEEP_SIZE, 0, 4096)
        do("seek", os.lseek, fd, 0, os.SEEK_HOLE); show("stat", st(fd))
        do("back by /proc", os.link, f"/proc/self/fd/{fd}", "back", follow_symlinks=True)
        put("f", "a new file of that name"); show("new", get("f")); show("old", digest(os.pread(fd, 10**6, 0)))
        os.close(fd); show("through the second", digest(os.pread(second, 10**6, 0)))
        os.close(second); tree(); os.unlink("f")
  `,
);

lab.prints(
  "an open that races with the unlink of its file gets the whole file or ENOENT",
  py`
    content = pattern(60_000); wrong, found = [], 0
    sys.stdout.flush(); maker = os.fork()
    if maker == 0:
        for i in range(600): put("aside", content); os.rename("aside", "x"); os.unlink("x")
        os._exit(0)
    while os.waitpid(maker, os.WNOHANG)[0] == 0:
        try: fd = os.open("x", os.O_RDONLY)
        except FileNotFoundError: continue
        try:
            if os.pread(fd, 100_000, 0) != content: wrong.append("content")
            found += 1
        except OSError as error: wrong.append(name_of(error))
        os.close(fd)
    show("wrong", wrong); show("some were found", found > 10)
  `,
  ["wrong: []", "some were found: True"],
);

lab.same(
  "a running program and a mapped file that are removed",
  py`
    put("script", "#!/bin/sh\nrm -- \"$0\"\necho still running\n", 0o755); os.chmod("script", 0o755)
    show("script", os.popen("./script").read()); tree()
    put("mapped", pattern(100_000)); fd = os.open("mapped", os.O_RDONLY); m = mmap.mmap(fd, 0, prot=mmap.PROT_READ); os.close(fd); os.unlink("mapped")
    show("mapping", digest(bytes(m)))
  `,
);

lab.same(
  "mknod: fifo, socket, devices and plain files",
  py`
    os.umask(0o022)
    for name, kind, device in [("fifo", stat.S_IFIFO, 0), ("socket", stat.S_IFSOCK, 0), ("file", stat.S_IFREG, 0), ("plain", 0, 0), ("null", stat.S_IFCHR, os.makedev(1, 3)),
                         ("large", stat.S_IFCHR, os.makedev(4000, 70000)), ("block", stat.S_IFBLK, os.makedev(7, 255)), ("zero", stat.S_IFCHR, 0)]:
        do(f"mknod {name}", os.mknod, name, kind | 0o666, device); show_stat(name)
        do("again", os.mknod, name, kind | 0o666, device)
    do("a folder", os.mknod, "folder", stat.S_IFDIR | 0o755); do("a symlink", os.mknod, "link", stat.S_IFLNK | 0o755); do("no kind", os.mknod, "bad", 0o170000 | 0o644)
    do("write a mknod file", put, "file", "content"); do("read", get, "file")
    os.chmod(".", 0o777)
    def user():
        do("fifo", os.mknod, "users fifo", stat.S_IFIFO | 0o600); do("socket", os.mknod, "users socket", stat.S_IFSOCK | 0o600)
        do("device", os.mknod, "users device", stat.S_IFCHR | 0o600, os.makedev(1, 3)); do("block device", os.mknod, "users block", stat.S_IFBLK | 0o600, os.makedev(7, 1))
    as_user(1000, 1000, user)
    tree()
  `,
);

lab.same(
  "fifos and sockets work",
  py`
    os.mkfifo("fifo")
    sys.stdout.flush()
    if os.fork() == 0:
        fd = os.open("fifo", os.O_WRONLY); os.write(fd, b"through the fifo"); os._exit(0)
    show("fifo", get("fifo")); os.wait()
    server = socket.socket(socket.AF_UNIX); server.bind("socket"); server.listen()
    sys.stdout.flush()
    if os.fork() == 0:
        client = socket.socket(socket.AF_UNIX); client.connect("socket"); client.sendall(b"through the socket"); os._exit(0)
    show("socket", server.accept()[0].recv(100)); os.wait()
    do("bind again", socket.socket(socket.AF_UNIX).bind, "socket")
    server.close(); do("nobody listens", socket.socket(socket.AF_UNIX).connect, "socket")
    do("open a socket", os.open, "socket", os.O_RDONLY)
    show_stat("fifo"); show_stat("socket")
  `,
);
