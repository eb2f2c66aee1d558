/** flock(2) and fcntl(2) locks between the processes of one mount. */
import { PosixLab, py } from "./support/posix.ts";

const lab = new PosixLab();

lab.same(
  "flock: shared, exclusive, upgraded, inherited, ended by close",
  py`
    put("f"); a = os.open("f", os.O_RDONLY); b = os.open("f", os.O_RDWR)
    EX, SH, UN, NB = fcntl.LOCK_EX, fcntl.LOCK_SH, fcntl.LOCK_UN, fcntl.LOCK_NB
    do("a exclusive", fcntl.flock, a, EX | NB); do("b shared", fcntl.flock, b, SH | NB); do("b exclusive", fcntl.flock, b, EX | NB)
    do("a down to shared", fcntl.flock, a, SH | NB); do("b shared", fcntl.flock, b, SH | NB); do("a up again", fcntl.flock, a, EX | NB)
    do("b unlocked", fcntl.flock, b, UN); do("a up again", fcntl.flock, a, EX | NB)
    def child():
        do("child through the inherited descriptor", fcntl.flock, a, EX | NB)
        own = os.open("f", os.O_RDWR); do("child through its own", fcntl.flock, own, SH | NB)
    fork_do(child)
    twin = os.dup(a); os.close(a); do("still held by a dup", fcntl.flock, b, SH | NB); os.close(twin); do("after the last close", fcntl.flock, b, EX | NB)
    do("a folder", lambda: with_fd(".", os.O_RDONLY, lambda fd: fcntl.flock(fd, EX | NB)))
    sys.stdout.flush(); reader, writer = os.pipe(); pid = os.fork()
    if pid == 0:
        c = os.open("f", os.O_RDWR); os.write(writer, b"1"); begin = time.monotonic(); fcntl.flock(c, EX); os._exit(0 if time.monotonic() - begin > 0.2 else 1)
    os.read(reader, 1); time.sleep(0.4); fcntl.flock(b, UN); show("a waiter gets it", os.waitpid(pid, 0)[1])
  `,
);

lab.same(
  "fcntl: ranges, conflicts, F_GETLK, ended by any close and by death; open file description locks",
  py`
    put("f", bytes(1000)); a = os.open("f", os.O_RDWR)
    def lock(fd, kind, start, length, wait=False, ofd=False):
        command = ({False: 6, True: 7}[wait]) if not ofd else ({False: 37, True: 38}[wait])
        fcntl.fcntl(fd, command, struct.pack("hhqqi4x", kind, 0, start, length, 0))
    def who(fd, kind, start, length):
        kind, whence, start, length, pid = struct.unpack("hhqqi4x", fcntl.fcntl(fd, 5, struct.pack("hhqqi4x", kind, 0, start, length, 0)))
        return (kind, start, length, pid == parent if pid else pid)
    READ, WRITE, UNLOCK = 0, 1, 2; parent = os.getpid()
    do("write 0-100", lock, a, WRITE, 0, 100); do("read 200-300", lock, a, READ, 200, 100); do("own again", lock, a, READ, 50, 10)
    def child():
        fd = os.open("f", os.O_RDWR)
        for kind, start, length in [(WRITE, 0, 10), (READ, 50, 10), (READ, 40, 20), (READ, 200, 50), (WRITE, 200, 50), (WRITE, 100, 100), (WRITE, 300, 0)]:
            do(f"child {kind} {start} {length}", lock, fd, kind, start, length)
        do("who", who, fd, WRITE, 0, 1000); do("who", who, fd, READ, 200, 10); do("who", who, fd, WRITE, 900, 1)
        do("read-only descriptor, write lock", lambda: with_fd("f", os.O_RDONLY, lambda r: lock(r, WRITE, 500, 1)))
    fork_do(child)
    other = os.open("f", os.O_RDONLY); os.close(other)
    fork_do(lambda: do("after the parent closed another descriptor", lambda: with_fd("f", os.O_RDWR, lambda fd: lock(fd, WRITE, 0, 0))))
    lock(a, WRITE, 0, 0)
    sys.stdout.flush(); pid = os.fork()
    if pid == 0:
        fd = os.open("f", os.O_RDWR); lock(fd, WRITE, 0, 10, wait=True); os._exit(0)
    time.sleep(0.2); lock(a, UNLOCK, 0, 0); show("a waiter gets it", os.waitpid(pid, 0)[1]); do("and death frees it", lock, a, WRITE, 0, 0)
    lock(a, UNLOCK, 0, 0); b = os.open("f", os.O_RDWR)
    do("ofd", lock, a, WRITE, 0, 10, False, True); do("ofd through another descriptor", lock, b, WRITE, 5, 10, False, True); os.close(a); do("ofd after close", lock, b, WRITE, 5, 10, False, True)
    one = os.open("f", os.O_RDWR); two = os.open("g", os.O_RDWR | os.O_CREAT); lock(b, UNLOCK, 0, 0, False, True); lock(one, WRITE, 0, 1)
    sys.stdout.flush(); pid = os.fork()
    if pid == 0:
        lock(two, WRITE, 0, 1); time.sleep(0.3)
        try: lock(one, WRITE, 0, 1, wait=True); os._exit(0)
        except OSError as error: os._exit(1)
    time.sleep(0.1)
    try: lock(two, WRITE, 0, 1, wait=True); mine = "ok"
    except OSError as error: mine = name_of(error)
    lock(one, UNLOCK, 0, 1); lock(two, UNLOCK, 0, 1) if mine == "ok" else None
    show("deadlock found", mine == "EDEADLK" or os.waitpid(pid, 0)[1] == 256)
    do("lockf", os.lockf, one, os.F_TLOCK, 10)
  `,
);
