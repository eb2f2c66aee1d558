/** read, write, fsync, and what is there after a remount. */
import { expect, test } from "bun:test";
import { join } from "node:path";
import { PosixLab, py } from "./support/posix.ts";

const lab = new PosixLab();

lab.same(
  "reads and writes of awkward sizes at awkward offsets",
  py`
    sizes = [1, 2, 511, 4095, 4096, 4097, 16383, 16384, 16385, 65535, 65536, 65537, 131072, 131073, 1048575, 1048577, 4194303, 4194305]
    for size in sizes:
        data = pattern(size, size)
        fd = os.open("f", os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
        do(f"write {size}", os.write, fd, data)
        show("read back", digest(os.pread(fd, size + 10, 0)))
        do("at the end", os.pread, fd, 10, size)
        do("beyond", os.pread, fd, 10, size + 5000)
        os.pwrite(fd, b"middle", size // 2)
        os.pwrite(fd, b"end", size - 1)
        os.close(fd)
        show("closed", digest(get("f")))
        fd = os.open("f", os.O_RDWR)
        os.pwrite(fd, b"BEGIN", 0); os.pwrite(fd, b"far", size + 70000)
        os.close(fd)
        show("changed", digest(get("f")))
  `,
);

lab.same(
  "vectors, empty calls, and wrong arguments",
  py`
    fd = os.open("f", os.O_RDWR | os.O_CREAT, 0o644)
    do("writev", os.writev, fd, [b"one", b"", b"two", pattern(100000)])
    do("pwritev", os.pwritev, fd, [b"AB", b"CD"], 2)
    buffers = [bytearray(3), bytearray(0), bytearray(5)]
    do("preadv", os.preadv, fd, buffers, 0); show("buffers", buffers)
    do("empty write", os.write, fd, b"")
    do("empty write beyond", os.pwrite, fd, b"", 10**9)
    do("empty read", os.pread, fd, 0, 0)
    do("negative offset", os.pread, fd, 1, -1)
    do("negative offset", os.pwrite, fd, b"x", -1)
    do("seek before the start", os.lseek, fd, -1, os.SEEK_SET)
    do("seek from the end", os.lseek, fd, -6, os.SEEK_END)
    do("seek with a wrong whence", os.lseek, fd, 0, 99)
    do("seek beyond", os.lseek, fd, 10**12, os.SEEK_SET)
    do("read there", os.read, fd, 1)
    show("size", os.fstat(fd).st_size)
    os.close(fd)
    do("closed", os.pread, fd, 1, 0)
  `,
);

lab.same(
  "times: a write moves mtime and ctime, a read neither; fsync, close and waiting change nothing",
  py`
    put("f", "content")
    fd = os.open("f", os.O_RDWR)
    moved("write", "f", os.write, fd, b"more")
    moved("fsync", "f", os.fsync, fd)
    moved("empty write", "f", os.write, fd, b"")
    moved("read", "f", os.pread, fd, 3, 0)
    moved("pwrite beyond", "f", os.pwrite, fd, b"x", 100000)
    before = times("f"); time.sleep(0.05)
    os.close(fd)
    show("close", times("f") == before)
    time.sleep(1.2); show("later", times("f") == before)
    show("mtime is ctime", before[0] == before[1])
  `,
);

lab.same(
  "random writes and reads in a model",
  py`
    import random
    dice = random.Random(7)
    model = bytearray()
    fd = os.open("f", os.O_RDWR | os.O_CREAT, 0o644)
    for step in range(600):
        action = dice.random()
        at = dice.randrange(0, 3_000_000)
        length = dice.choice([1, 100, 4096, 5000, 65536, 200000])
        if action < 0.5:
            data = pattern(length, step)
            os.pwrite(fd, data, at)
            if len(model) < at + length: model.extend(bytes(at + length - len(model)))
            model[at:at + length] = data
        elif action < 0.85:
            if os.pread(fd, length, at) != bytes(model[at:at + length]): show(step, f"differs at {at}")
        elif action < 0.9:
            os.ftruncate(fd, at)
            model = model[:at] + bytes(max(0, at - len(model)))
        elif action < 0.95:
            os.fsync(fd)
        else:
            os.close(fd)
            fd = os.open("f", os.O_RDWR)
    show("size", os.fstat(fd).st_size == len(model))
    show("all", os.pread(fd, 10_000_000, 0) == bytes(model))
    os.close(fd)
    show("closed", digest(get("f")))
  `,
  { shows: ["size: True", "all: True"] },
);

lab.same(
  "a file of 100 MB, written in pieces of 1 MB and read backwards",
  py`
    total = hashlib.sha256()
    fd = os.open("f", os.O_WRONLY | os.O_CREAT, 0o644)
    for i in range(100):
        block = pattern(31 * 1024, i) * 33 + bytes([i])
        total.update(block); os.write(fd, block)
    os.fsync(fd); os.close(fd)
    show("size", os.stat("f").st_size)
    fd = os.open("f", os.O_RDONLY)
    size = 31 * 1024 * 33 + 1
    pieces = [os.pread(fd, size, i * size) for i in reversed(range(100))]
    again = hashlib.sha256()
    for piece in reversed(pieces): again.update(piece)
    show("same", again.hexdigest() == total.hexdigest())
  `,
  { shows: ["same: True"] },
);

lab.same(
  "statvfs: the limits of names, and numbers that make sense",
  py`
    s = os.statvfs(".")
    show("names", s.f_namemax)
    show("block sizes", (s.f_bsize, s.f_frsize))
    show("blocks", s.f_blocks >= s.f_bfree >= s.f_bavail > 0)
    show("files", s.f_files >= s.f_ffree > 0)
    do("pathconf", os.pathconf, ".", "PC_NAME_MAX")
    put("f")
    fd = os.open("f", os.O_RDONLY)
    show("by descriptor", os.fstatvfs(fd).f_namemax)
    do("missing", lambda: os.statvfs("missing").f_namemax)
  `,
);

test("all of it is there after a remount", async () => {
  const make = py`
    os.makedirs("tree/deep/er")
    put("tree/empty"); put("tree/small", "small"); put("tree/deep/big", pattern(9_000_000)); put("tree/deep/er/x", pattern(70000, 3), 0o600)
    os.symlink("../small", "tree/deep/link"); os.link("tree/small", "tree/deep/er/second name"); os.mkfifo("tree/pipe", 0o640)
    os.utime("tree/small", ns=(1_000_000_001, 2_000_000_002)); os.utime("tree/deep", ns=(5, -7))
    os.chown("tree/deep", 12, 34); os.setxattr("tree/small", "user.x", b"kept")
    with_fd("tree/holes", os.O_RDWR | os.O_CREAT, lambda fd: (os.pwrite(fd, b"end", 10_000_000), None)[1])
  `;
  const look = py`
    tree()
    for path in ["tree/small", "tree/deep"]: show(path, (os.stat(path).st_atime_ns, os.stat(path).st_mtime_ns))
    show("xattr", os.getxattr("tree/small", "user.x"))
    show("hole", blocks("tree/holes") < 100)
  `;
  await lab.python(lab.mount.path, make);
  const before = await lab.python(lab.mount.path, look);
  expect(before).toContain("xattr: b'kept'");
  expect(before).toContain("tree/small: (1000000001, 2000000002)");
  expect(before).toContain("hole: True");
  await lab.remount();
  expect(await lab.python(lab.mount.path, look)).toEqual(before);
  await lab.node.restart();
  expect(await lab.python(join(lab.mount.path, "tree"), "show('x', digest(get('deep/big')))")).toHaveLength(1);
  expect(await lab.python(lab.mount.path, look)).toEqual(before);
}, 60_000);
