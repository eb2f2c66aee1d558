/** Files that programs on two mounts have open: overlapping writers, deletion and replacement from the other side, locks. */
import { beforeAll, expect, test } from "bun:test";
import { TestMount } from "./support/harness.ts";
import { PosixLab, py } from "./support/posix.ts";

const lab = new PosixLab();
let other: TestMount;
beforeAll(async () => {
  other = await TestMount.mount(lab.node);
});

let count = 0;
/** A test whose snippet finds an empty folder that both mounts see: as A and as B. */
function together(name: string, snippet: string, lines: readonly string[]): void {
  test(name, async () => {
    const folder = `open-${count++}`;
    await lab.python(lab.mount.path, `os.mkdir("${folder}")`);
    const where = `A, B = "${lab.mount.path}/${folder}", "${other.path}/${folder}"`;
    expect(await lab.python("/", `${where}\n${snippet}`)).toEqual([...lines]);
  }, 60_000);
}

together(
  "of overlapping writes the one that is flushed later wins, byte by byte, on both mounts",
  py`
    for size in [1_000, 1_000_000]:
        put(A + "/f", b"." * (3 * size)); a = os.open(A + "/f", os.O_RDWR); b = os.open(B + "/f", os.O_RDWR)
        for first, second in [((a, b"a", 0), (b, b"b", size)), ((b, b"B", size), (a, b"A", 0))]:
            for fd, byte, at in [first, second]: os.pwrite(fd, byte * 2 * size, at)
            os.fsync(first[0]); os.fsync(second[0])
            runs = {"b": b"a" * size + b"b" * 2 * size, "A": b"A" * 2 * size + b"B" * size}[second[1].decode()]
            show(f"{size}, {second[1].decode()} later", (get(A + "/f") == runs, get(B + "/f") == runs, os.pread(a, 3 * size, 0) == runs, os.pread(b, 3 * size, 0) == runs))
        os.close(a); os.close(b)
  `,
  [1_000, 1_000_000].flatMap((size) => ["b", "A"].map((who) => `${size}, ${who} later: (True, True, True, True)`)),
);

together(
  "a file that the other mount unlinked gives ESTALE; while it is open there, the bytes it had",
  py`
    def read(fd):
        try: os.preadv(fd, [memory], 4096); return "right" if bytes(memory) == content[4096:8192] else "wrong"
        except OSError as error: return name_of(error)
    content = pattern(5_000_000); memory = aligned(4096)
    for name in ["closed", "open"]: put(f"{A}/{name}", content)
    here = os.open(A + "/open", os.O_RDWR); there = {name: os.open(f"{B}/{name}", os.O_RDONLY | os.O_DIRECT) for name in ["closed", "open"]}
    for name in there: show(name, read(there[name])); os.unlink(f"{A}/{name}")
    show("closed", read(there["closed"])); show("open", read(there["open"]))
    show("where it was unlinked", os.pread(here, 10**7, 0) == content); do("and written", os.pwrite, here, b"x", 0); os.close(here)
    show("after the last close", read(there["open"]) in ("right", "ESTALE"))
    for name in there: do("its name", os.open, f"{B}/{name}", os.O_RDONLY)
  `,
  [
    "closed: right",
    "open: right",
    "closed: ESTALE",
    "open: right",
    "where it was unlinked: True",
    "and written: 1",
    "after the last close: True",
    "its name: ENOENT",
    "its name: ENOENT",
  ],
);

together(
  "a file that is replaced by rename again and again is never missing and never torn, on either mount",
  py`
    def version(i): return f"{i:06d}\\n".encode() * 3_000
    put(A + "/f", version(0)); sys.stdout.flush(); children = []
    def reader(at):
        wrong, seen, last = set(), 0, 0; deadline = time.monotonic() + 2.5
        while time.monotonic() < deadline:
            try: data = get(at + "/f")
            except OSError as error:
                # Where it was not replaced, one that is open may go while it is read; its name always leads to one.
                if at == A or error.errno != errno.ESTALE: wrong.add(name_of(error))
                continue
            number = int(data[:6])
            if data != version(number): wrong.add("torn")
            if number < last: wrong.add("backwards")
            last = number; seen += 1
        return "right" if seen > 20 and last > 0 and not wrong else (wrong, seen, last)
    for at in [A, B]:
        child = os.fork()
        if child == 0:
            outcome = reader(at)
            if outcome != "right": show("A" if at == A else "B", outcome)
            os._exit(0)
        children.append(child)
    i = 0; deadline = time.monotonic() + 2.5
    while time.monotonic() < deadline:
        i += 1; put(A + "/new", version(i)); os.rename(A + "/new", A + "/f")
    show("names and contents", [os.waitpid(child, 0)[1] for child in children])
  `,
  ["names and contents: [0, 0]"],
);

together(
  "locks are those of one mount: the other does not see them",
  py`
    put(A + "/f", bytes(10)); EX = fcntl.LOCK_EX | fcntl.LOCK_NB
    a, same, b = [os.open(at + "/f", os.O_RDWR) for at in (A, A, B)]
    do("A", fcntl.flock, a, EX); do("A again", fcntl.flock, same, EX); do("B", fcntl.flock, b, EX)
    do("A, a range", os.lockf, a, os.F_TLOCK, 10); fork_do(lambda: do("B, a range", lambda: with_fd(B + "/f", os.O_RDWR, lambda fd: os.lockf(fd, os.F_TLOCK, 10))))
    fork_do(lambda: do("A, the range", lambda: with_fd(A + "/f", os.O_RDWR, lambda fd: os.lockf(fd, os.F_TLOCK, 10))))
  `,
  ["A: ok", "A again: EAGAIN", "B: ok", "A, a range: ok", "B, a range: ok", "A, the range: EAGAIN"],
);
