/** truncate(2), ftruncate(2), fallocate(2), holes and st_blocks. */
import { PosixLab, py } from "./support/posix.ts";

const lab = new PosixLab();

lab.same(
  "shorter, longer, the same; by path and by descriptor",
  py`
    put("f", pattern(100000))
    for size in [99999, 4097, 4096, 4095, 100, 100, 0, 5000, 70000, 3]:
        do(f"truncate to {size}", os.truncate, "f", size)
        show("content", digest(get("f")))
    fd = os.open("f", os.O_RDWR)
    os.pwrite(fd, pattern(200000), 0)
    for size in [150001, 7, 300000, 65536, 65537, 0]:
        do(f"ftruncate to {size}", os.ftruncate, fd, size)
        show("size", os.fstat(fd).st_size)
        show("content", digest(os.pread(fd, 10**6, 0)))
        os.pwrite(fd, b"written after", size)
        show("content", digest(os.pread(fd, 10**6, 0)))
    os.close(fd)
    show("content", digest(get("f")))
  `,
);

lab.same(
  "what was cut off does not come back",
  py`
    put("f", pattern(10_000_000))
    os.truncate("f", 5_000_000); os.truncate("f", 9_000_000)
    data = get("f")
    show("kept", data[:5_000_000] == pattern(10_000_000)[:5_000_000]); show("zeros", data[5_000_000:] == bytes(4_000_000))
    fd = os.open("f", os.O_RDWR)
    os.pwrite(fd, pattern(1000, 2), 8_000_000); os.ftruncate(fd, 8_000_500); os.ftruncate(fd, 8_100_000)
    show("unwritten data", digest(os.pread(fd, 200_000, 7_999_000)))
    os.fsync(fd); show("written data", digest(os.pread(fd, 200_000, 7_999_000)))
    os.ftruncate(fd, 8_000_001); os.fsync(fd); os.ftruncate(fd, 8_000_100); os.close(fd)
    show("end", digest(get("f")[7_990_000:]))
  `,
  { shows: ["kept: True", "zeros: True"] },
);

lab.same(
  "errors",
  py`
    os.mkdir("folder"); put("f", "x"); os.symlink("f", "link"); os.symlink("folder", "folder link"); os.mkfifo("fifo")
    put("executable", "#!/bin/sh\n", 0o755); os.chmod(".", 0o777)
    for path in ["folder", "folder link", "missing", "f/x", "fifo", "", "n" * 256]:
        do(f"truncate {path[:20]!r}", os.truncate, path, 10)
    do("through a link", os.truncate, "link", 10); show_stat("f")
    do("negative", os.truncate, "f", -1)
    fd = os.open("f", os.O_RDONLY); do("read-only descriptor", os.ftruncate, fd, 0)
    def user():
        do("another's file", os.truncate, "f", 0)
        do("another's open file", lambda: os.ftruncate(fd, 0))
    as_user(1000, 1000, user)
    show_stat("f")
  `,
);

lab.same(
  "times: a truncation moves mtime and ctime",
  py`
    put("f", pattern(5000))
    fd = os.open("f", os.O_RDWR)
    moved("ftruncate shorter", "f", os.ftruncate, fd, 100)
    moved("ftruncate longer", "f", os.ftruncate, fd, 10000)
    moved("truncate shorter", "f", os.truncate, "f", 50)
    moved("ftruncate to the same size", "f", os.ftruncate, fd, 50)
    moved("O_TRUNC", "f", lambda: os.close(os.open("f", os.O_WRONLY | os.O_TRUNC)))
    moved("fallocate", "f", fallocate, fd, 0, 0, 100000)
    moved("fallocate, keep size", "f", fallocate, fd, KEEP_SIZE, 0, 200000)
    moved("punch hole", "f", fallocate, fd, KEEP_SIZE | PUNCH_HOLE, 0, 4096)
    moved("zero range", "f", fallocate, fd, ZERO_RANGE, 0, 8192)
    show_stat("f")
  `,
);

const MODES = py`
  modes = {"allocate": 0, "keep size": KEEP_SIZE, "punch hole": PUNCH_HOLE | KEEP_SIZE, "zero range": ZERO_RANGE,
           "zero range, keep size": ZERO_RANGE | KEEP_SIZE}
`;

lab.same(
  "fallocate: content and size for every mode and many ranges",
  py`
    ${MODES.replaceAll("\n", "\n    ")}
    ranges = [(0, 100), (0, 4096), (100, 5000), (4096, 4096), (8192, 100000), (99_000, 2000), (100_000, 50_000), (150_000, 1), (0, 100_000), (50, 1)]
    for name, mode in modes.items():
        for synced in [False, True]:
            for offset, length in ranges:
                fd = os.open("f", os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
                os.write(fd, pattern(100_000))
                if synced: os.fsync(fd)
                do(f"{name} {offset} + {length}, synced: {synced}", fallocate, fd, mode, offset, length)
                show("  content", digest(os.pread(fd, 10**6, 0)))
                os.pwrite(fd, b"!", offset)
                os.close(fd)
                show("  closed", digest(get("f")))
  `,
);

lab.same(
  "fallocate over 10 MB in small files, large files and holes",
  py`
    ${MODES.replaceAll("\n", "\n    ")}
    fd = os.open("f", os.O_RDWR | os.O_CREAT, 0o644)
    os.write(fd, pattern(10_000_000))
    os.fsync(fd)
    do("punch across chunks", fallocate, fd, modes["punch hole"], 3_000_000, 4_000_000)
    show("content", digest(os.pread(fd, 20_000_000, 0)))
    os.pwrite(fd, pattern(100_000, 5), 5_000_000)
    do("zero across dirty data", fallocate, fd, modes["zero range"], 4_950_000, 100_000)
    show("content", digest(os.pread(fd, 20_000_000, 0)))
    do("allocate beyond", fallocate, fd, 0, 9_000_000, 3_000_000)
    show("size", os.fstat(fd).st_size)
    do("punch beyond the end", fallocate, fd, modes["punch hole"], 11_000_000, 5_000_000)
    show("size", os.fstat(fd).st_size)
    os.close(fd)
    show("content", digest(get("f")))
    do("posix_fallocate", lambda: with_fd("g", os.O_RDWR | os.O_CREAT, lambda fd: os.posix_fallocate(fd, 1000, 5000)))
    show_stat("g")
  `,
);

lab.same(
  "fallocate: errors",
  py`
    put("f", "content"); os.mkfifo("fifo")
    fd = os.open("f", os.O_RDWR)
    do("length 0", fallocate, fd, 0, 0, 0)
    do("negative offset", fallocate, fd, 0, -1, 10)
    do("negative length", fallocate, fd, 0, 0, -1)
    do("punch without keep size", fallocate, fd, PUNCH_HOLE, 0, 10)
    do("punch and zero", fallocate, fd, PUNCH_HOLE | ZERO_RANGE | KEEP_SIZE, 0, 10)
    do("beyond the largest file", fallocate, fd, 0, EIB8 - 10, 100)
    do("read-only", lambda: with_fd("f", os.O_RDONLY, lambda fd: fallocate(fd, 0, 0, 10)))
    do("a folder", lambda: with_fd(".", os.O_RDONLY, lambda fd: fallocate(fd, 0, 0, 10)))
    do("a fifo", lambda: with_fd("fifo", os.O_RDWR, lambda fd: fallocate(fd, 0, 0, 10)))
    show("content", get("f"))
  `,
);

lab.prints(
  "fallocate modes that move data are not supported",
  py`
    put("f", pattern(20000))
    fd = os.open("f", os.O_RDWR)
    do("collapse range", fallocate, fd, COLLAPSE_RANGE, 0, 4096)
    do("insert range", fallocate, fd, INSERT_RANGE, 0, 4096)
    show("same", get("f") == pattern(20000))
  `,
  ["collapse range: ENOTSUP", "insert range: ENOTSUP", "same: True"],
);

lab.same(
  "SEEK_DATA and SEEK_HOLE find the holes",
  py`
    MB = 1 << 20
    def look(label):
        show(label, [(start // 4096, -(-end // 4096)) for start, end in extents(fd)])
        show("  size", os.fstat(fd).st_size)
    fd = os.open("f", os.O_RDWR | os.O_CREAT, 0o644)
    look("empty")
    do("data in nothing", os.lseek, fd, 0, os.SEEK_DATA)
    do("hole in nothing", os.lseek, fd, 0, os.SEEK_HOLE)
    os.pwrite(fd, pattern(MB), 10 * MB)
    look("data after a hole")
    os.pwrite(fd, pattern(MB, 2), 0)
    look("two runs")
    os.ftruncate(fd, 20 * MB)
    look("hole at the end")
    do("data in the last hole", os.lseek, fd, 12 * MB, os.SEEK_DATA)
    do("hole in the last hole", os.lseek, fd, 12 * MB, os.SEEK_HOLE)
    do("data at the end", os.lseek, fd, 20 * MB, os.SEEK_DATA)
    do("hole at the end", os.lseek, fd, 20 * MB, os.SEEK_HOLE)
    do("data beyond", os.lseek, fd, 21 * MB, os.SEEK_DATA)
    do("hole beyond", os.lseek, fd, 21 * MB, os.SEEK_HOLE)
    do("negative", os.lseek, fd, -1, os.SEEK_DATA)
    do("in the middle", os.lseek, fd, 10 * MB + 5000, os.SEEK_DATA)
    do("in the middle", os.lseek, fd, 10 * MB + 5000, os.SEEK_HOLE)
    fallocate(fd, PUNCH_HOLE | KEEP_SIZE, MB // 2, MB // 4)
    look("a hole punched")
    os.fsync(fd); look("synced")
    os.ftruncate(fd, 10 * MB + 4096); look("cut")
    os.close(fd)
    fd = os.open("f", os.O_RDONLY); look("opened again")
  `,
);

lab.prints(
  "st_blocks counts data, not holes",
  py`
    MB = 1 << 20
    fd = os.open("f", os.O_RDWR | os.O_CREAT, 0o644)
    def about(label, mebibytes):
        for when in ["", ", synced"]:
            kib = blocks(fd)
            show(label + when, "right" if abs(kib - mebibytes * 1024) <= 64 else f"{kib} KiB")
            os.fsync(fd)
    about("empty", 0)
    os.ftruncate(fd, 100 * MB); about("one hole", 0)
    os.pwrite(fd, pattern(4 * MB), 50 * MB); about("4 MiB of data", 4)
    os.pwrite(fd, pattern(4 * MB, 2), 50 * MB); about("overwritten", 4)
    os.pwrite(fd, pattern(2 * MB, 3), 53 * MB); about("partly overwritten", 5)
    fallocate(fd, PUNCH_HOLE | KEEP_SIZE, 51 * MB, 2 * MB); about("2 MiB punched", 3)
    os.ftruncate(fd, 51 * MB); about("cut", 1)
    os.ftruncate(fd, 0); about("emptied", 0)
  `,
  ["empty", "one hole", "4 MiB of data", "overwritten", "partly overwritten", "2 MiB punched", "cut", "emptied"].flatMap((label) => [
    `${label}: right`,
    `${label}, synced: right`,
  ]),
);
