/** copy_file_range(2): the same bytes, and no data moves. */
import { expect, test } from "bun:test";
import { PosixLab, py } from "./support/posix.ts";

const lab = new PosixLab();

lab.same(
  "ranges of small and large files, aligned and not, inside and beyond the end",
  py`
    for size in [100, 50_000, 5_000_000]:
        put("from", pattern(size))
        for begin, length, at in [(0, size, 0), (0, size, 10), (7, size // 2, 0), (size // 3, size // 3, 4096), (0, size, 10 * size),
                                  (size - 1, 100, 5), (size, 10, 0), (size + 5, 10, 0), (0, 0, 0)]:
            put("to", pattern(size // 2, 2))
            source = os.open("from", os.O_RDONLY); target = os.open("to", os.O_RDWR)
            do(f"{size}: {length} from {begin} to {at}", os.copy_file_range, source, target, length, begin, at)
            show("  through the handle", digest(os.pread(target, 10**8, 0)))
            os.pwrite(target, b"after", at); os.pwrite(target, b"end", os.fstat(target).st_size)
            os.close(source); os.close(target)
            show("  closed", digest(get("to")))
        show("source", digest(get("from")))
  `,
);

lab.same(
  "inside one file, overlapping, with unwritten data on both sides, with holes",
  py`
    fd = os.open("f", os.O_RDWR | os.O_CREAT, 0o644)
    os.write(fd, pattern(1_000_000))
    do("further down", os.copy_file_range, fd, fd, 200_000, 0, 500_000)
    show("content", digest(os.pread(fd, 10**7, 0)))
    do("up", os.copy_file_range, fd, fd, 100_000, 600_000, 50_000)
    show("content", digest(os.pread(fd, 10**7, 0)))
    do("overlapping", os.copy_file_range, fd, fd, 100_000, 0, 50_000)
    do("behind the end", os.copy_file_range, fd, fd, 1_000_000, 0, 1_000_000)
    show("content", digest(os.pread(fd, 10**7, 0)))
    os.pwrite(fd, pattern(100, 3), 20_000_000)
    other = os.open("g", os.O_RDWR | os.O_CREAT, 0o644)
    os.write(other, b"dirty" * 1000)
    done = 0
    while done < 20_000_100: done += os.copy_file_range(fd, other, 20_000_100 - done, done, 1000 + done)
    show("with a hole", digest(os.pread(other, 10**8, 0)))
    os.pwrite(other, b"x", 15_000_000)
    os.close(other); os.close(fd)
    show("closed", digest(get("g"))); show("source", digest(get("f")))
  `,
);

lab.same(
  "positions move; errors",
  py`
    put("from", pattern(10000)); os.mkdir("folder"); os.mkfifo("fifo")
    source = os.open("from", os.O_RDONLY); target = os.open("to", os.O_RDWR | os.O_CREAT, 0o644)
    do("by positions", os.copy_file_range, source, target, 4000)
    do("again", os.copy_file_range, source, target, 4000)
    show("positions", (os.lseek(source, 0, os.SEEK_CUR), os.lseek(target, 0, os.SEEK_CUR)))
    do("the rest", os.copy_file_range, source, target, 4000)
    do("at the end", os.copy_file_range, source, target, 4000)
    show("content", get("to") == get("from"))
    moved("times", ["from", "to"], os.copy_file_range, source, target, 100, 0, 0)
    do("to a read-only descriptor", os.copy_file_range, source, source, 10, 0, 5000)
    write_only = os.open("to", os.O_WRONLY); do("from a write-only one", os.copy_file_range, write_only, target, 10, 0, 0)
    appending = os.open("to", os.O_WRONLY | os.O_APPEND); do("to an appending one", os.copy_file_range, source, appending, 10, 0, 0)
    folder = os.open("folder", os.O_RDONLY); do("from a folder", os.copy_file_range, folder, target, 10, 0, 0)
    fifo = os.open("fifo", os.O_RDWR); do("from a fifo", os.copy_file_range, fifo, target, 10)
  `,
);

test("shares chunks: the node stores nothing new, and the copy is another file", async () => {
  const cwd = lab.mount.path;
  /** The node's chunk files: they bear the chunk's id. */
  const chunks = () => [...new Bun.Glob("**").scanSync(lab.node.dataDir)].filter((path) => /\/[0-9a-f]{64}$/.test(path)).length;
  await lab.python(cwd, `put("big", pattern(20_000_000))`);
  const before = chunks();
  expect(before).toBeGreaterThanOrEqual(4);
  const copy = py`
    with open("big", "rb") as source, open("copy", "wb") as target:
        done = 0
        while done < 20_000_000: done += os.copy_file_range(source.fileno(), target.fileno(), 20_000_000 - done)
    show("same", get("copy") == get("big"))
    show("blocks", blocks("copy") == blocks("big"))
  `;
  expect(await lab.python(cwd, copy)).toEqual(["same: True", "blocks: True"]);
  expect(chunks()).toBe(before);
  const change = py`
    with_fd("copy", os.O_RDWR, lambda fd: (os.pwrite(fd, b"changed", 1_000_000), None)[1])
    show("original", get("big") == pattern(20_000_000))
    os.unlink("big")
    show("copy", get("copy")[1_000_000:1_000_007])
    show("copy", digest(get("copy")[1_000_007:]) == digest(pattern(20_000_000)[1_000_007:]))
  `;
  expect(await lab.python(cwd, change)).toEqual(["original: True", "copy: b'changed'", "copy: True"]);
}, 60_000);
