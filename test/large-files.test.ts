/** Sparse files to 8 EiB - 1. (ext4 ends at 16 TiB: beyond that there is nothing to compare with.) */
import { PosixLab, py } from "./support/posix.ts";

const lab = new PosixLab();

lab.same(
  "around 2 GiB, 4 GiB and 15 TiB",
  py`
    for at in [2**31 - 3, 2**32 - 3, 2**40, 15 * 2**40 - 5]:
        fd = os.open("f", os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
        do(f"write at {at}", os.pwrite, fd, b"across", at); show("size", os.fstat(fd).st_size)
        do("read", os.pread, fd, 100, at - 2); do("read far before", os.pread, fd, 4, at // 2)
        do("append", lambda: with_fd("f", os.O_WRONLY | os.O_APPEND, lambda other: os.write(other, b"end"))); do("read", os.pread, fd, 100, at)
        os.fsync(fd); show("data", [a // 4096 - at // 4096 for a, b in extents(fd)]); show("small", blocks(fd) <= 64)
        do("seek from the end", os.lseek, fd, -4, os.SEEK_END); do("read", os.read, fd, 10)
        do("cut", os.ftruncate, fd, at + 2); os.close(fd); show("size", os.stat("f").st_size); do("read", lambda: with_fd("f", os.O_RDONLY, lambda fd: os.pread(fd, 10, at)))
  `,
);

lab.prints(
  "to 8 EiB - 1: written, read, cut, punched and found at the far end",
  py`
    last = EIB8
    fd = os.open("f", os.O_RDWR | os.O_CREAT, 0o644)
    do("truncate to 8 EiB - 1", os.ftruncate, fd, last); show("size", os.fstat(fd).st_size == last); show("KiB", blocks(fd))
    do("read the last byte", os.pread, fd, 1, last - 1)
    do("write the last bytes", os.pwrite, fd, b"the end", last - 7); do("read", os.pread, fd, 9, last - 9)
    do("write beyond", os.pwrite, fd, b"xy", last - 1); do("read beyond", os.pread, fd, 2, last - 1)
    do("append", lambda: with_fd("f", os.O_WRONLY | os.O_APPEND, lambda other: os.write(other, b"more")))
    os.pwrite(fd, pattern(70000), 2**62 - 35000); os.pwrite(fd, b"begin", 0); os.pwrite(fd, b"2^53", 2**53 - 2)
    os.fsync(fd)
    show("data", [(a // 2**40, (b - a + 4095) // 4096) for a, b in extents(fd)] )
    show("in the middle", digest(os.pread(fd, 70000, 2**62 - 35000)) == digest(pattern(70000)))
    do("at 2^53", os.pread, fd, 8, 2**53 - 4)
    os.close(fd); fd = os.open("f", os.O_RDWR)
    do("read after closing", os.pread, fd, 9, last - 9); show("few blocks", blocks(fd) < 300)
    do("punch the middle", fallocate, fd, PUNCH_HOLE | KEEP_SIZE, 2**62 - 40000, 80000); show("data", len(extents(fd)))
    do("fallocate to the limit", fallocate, fd, 0, last - 100, 100)
    do("cut to 2^60 + 1", os.ftruncate, fd, 2**60 + 1); show("data", len(extents(fd))); do("at 2^53", os.pread, fd, 4, 2**53 - 2); do("begin", os.pread, fd, 5, 0)
    do("punch everything", fallocate, fd, PUNCH_HOLE | KEEP_SIZE, 0, last); show("data", extents(fd)); show("KiB", blocks(fd))
    source = os.open("g", os.O_RDWR | os.O_CREAT, 0o644); os.write(source, b"copied")
    do("copy to the far end", os.copy_file_range, source, fd, 6, 0, last - 6); do("read", os.pread, fd, 6, last - 6)
    os.close(fd); show("size", os.stat("f").st_size == last); os.unlink("f")
  `,
  [
    "truncate to 8 EiB - 1: ok",
    "size: True",
    "KiB: 0",
    "read the last byte: b'\\x00'",
    "write the last bytes: 7",
    "read: b'\\x00\\x00the end'",
    // Where a request would end beyond the largest offset, the kernel itself refuses it.
    "write beyond: EINVAL",
    "read beyond: EINVAL",
    "append: EFBIG",
    "data: [(0, 1), (8191, 1), (4194303, 18), (8388607, 1)]",
    "in the middle: True",
    "at 2^53: b'\\x00\\x002^53\\x00\\x00'",
    "read after closing: b'\\x00\\x00the end'",
    "few blocks: True",
    "punch the middle: ok",
    "data: 3",
    "fallocate to the limit: ok",
    "cut to 2^60 + 1: ok",
    "data: 2",
    "at 2^53: b'2^53'",
    "begin: b'begin'",
    "punch everything: ok",
    "data: []",
    "KiB: 0",
    "copy to the far end: 6",
    "read: b'copied'",
    "size: True",
  ],
);
