/** mmap(2): private and read-only mappings work, writable shared ones are refused (docs/SEMANTICS.md D1). */
import { PosixLab, py } from "./support/posix.ts";

const lab = new PosixLab();

lab.prints(
  "shared mappings of a descriptor that reads and writes are refused with ENODEV",
  py`
    put("f", pattern(10000))
    for name, flags in [("RDWR", os.O_RDWR), ("RDWR|APPEND", os.O_RDWR | os.O_APPEND), ("RDWR|CREAT", os.O_RDWR | os.O_CREAT)]:
        fd = os.open("f" if "CREAT" not in name else "new", flags, 0o644)
        if "CREAT" in name: os.write(fd, pattern(10000))
        for mapping, arguments in {"shared writable": dict(flags=mmap.MAP_SHARED, prot=mmap.PROT_READ | mmap.PROT_WRITE), "shared readable": dict(flags=mmap.MAP_SHARED, prot=mmap.PROT_READ),
                               "private writable": dict(flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)}.items():
            def map(): m = mmap.mmap(fd, 10000, **arguments); return m[:] == pattern(10000)
            do(f"{name}: {mapping}", map)
        os.close(fd)
  `,
  ["RDWR", "RDWR|APPEND", "RDWR|CREAT"].flatMap((name) => [
    `${name}: shared writable: ENODEV`,
    `${name}: shared readable: ENODEV`,
    `${name}: private writable: True`,
  ]),
);

lab.same(
  "mappings of read-only descriptors, private changes, programs and libraries",
  py`
    put("f", pattern(3_000_000))
    fd = os.open("f", os.O_RDONLY)
    shared = mmap.mmap(fd, 0, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ); show("shared", digest(shared[:]))
    private = mmap.mmap(fd, 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE); private[5:10] = b"mine!"; show("private", private[:20])
    show("file unchanged", digest(os.pread(fd, 10**7, 0)))
    do("shared writable of a read-only descriptor", lambda: mmap.mmap(fd, 0, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ | mmap.PROT_WRITE))
    do("write-only descriptor", lambda: with_fd("f", os.O_WRONLY, lambda w: mmap.mmap(w, 100, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ)))
    writer = os.open("f", os.O_WRONLY); os.pwrite(writer, b"seen in the mapping", 4096); show("seen", shared[4096:4115]); os.close(writer)
    show("seen after close", shared[4096:4115])
    do("a folder", lambda: with_fd(".", os.O_RDONLY, lambda d: mmap.mmap(d, 100, prot=mmap.PROT_READ)))
    import shutil
    shutil.copy("/bin/true", "program"); os.chmod("program", 0o755); show("program", os.system("./program"))
    libz = [line.split()[-1] for line in open("/proc/self/maps") if "libc.so" in line or "libc-" in line][0]
    shutil.copy(libz, "library.so"); show("library", digest(get("library.so")) == digest(get(libz)))
    do("write to a running program", lambda: (shutil.copy("/bin/sleep", "sleep"), os.chmod("sleep", 0o755), globals().update(pid=os.spawnl(os.P_NOWAIT, "./sleep", "sleep", "20")), time.sleep(0.2), os.close(os.open("sleep", os.O_WRONLY)))[4])
    os.kill(pid, signal.SIGKILL); os.waitpid(pid, 0)
  `,
  { shows: ["program: 0", "library: True", "write to a running program: ETXTBSY"] },
);

lab.same(
  "a mapping beyond the end of a file that was cut raises SIGBUS, and zeros fill the last page",
  py`
    put("f", pattern(10000)); fd = os.open("f", os.O_RDONLY); m = mmap.mmap(fd, 0, prot=mmap.PROT_READ)
    address = ctypes.addressof(ctypes.c_char.from_buffer(bytearray(1)))
    show("before", digest(m[:])); os.truncate("f", 5000)
    show("last page", m[4990:5010])
    sys.stdout.flush(); child = os.fork()
    if child == 0: m[9000]; os._exit(0)
    show("beyond", os.waitpid(child, 0)[1] & 0x7f)
    os.truncate("f", 10000); show("grown again", m[4990:5010] + m[9000:9010])
  `,
);
