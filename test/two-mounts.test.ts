/** Two mounts of one namespace: what one sees of the other, and races for one name, one file, one tree. */
import { beforeAll, expect, test } from "bun:test";
import { TestMount } from "./support/harness.ts";
import { PosixLab, py } from "./support/posix.ts";

/** How old a name may be that the kernel has cached. */
const META_TTL_MS = 500;
const ttl = `meta_ttl_ms=${META_TTL_MS}`;

const lab = new PosixLab({ mount: { args: ["-o", ttl] } });
let other: TestMount;
beforeAll(async () => {
  other = await TestMount.mount(lab.node, { args: ["-o", ttl] });
});

let count = 0;
/** A test whose snippet finds an empty folder that both mounts see: as A and as B. */
function together(name: string, snippet: string, lines: readonly string[]): void {
  test(name, async () => {
    const folder = `together-${count++}`;
    await lab.python(lab.mount.path, `os.mkdir("${folder}")`);
    const preamble = py`
        A, B = "${lab.mount.path}/${folder}", "${other.path}/${folder}"
        def at_once(*functions):
            """Runs each in a process, all beginning at one time; returns what they return."""
            start_reader, start_writer = os.pipe(); children = []; sys.stdout.flush()
            for function in functions:
                reader, writer = os.pipe(); child = os.fork()
                if child == 0:
                    os.close(start_writer); os.read(start_reader, 1)
                    try: result = function()
                    except BaseException as error: result = f"{error!r}"
                    with os.fdopen(writer, "w") as out: out.write(repr(result))
                    os._exit(0)
                os.close(writer); children.append((child, reader))
            time.sleep(0.05); os.close(start_writer); results = []
            for child, reader in children:
                with os.fdopen(reader) as file: results.append(eval(file.read()))
                os.waitpid(child, 0)
            return results
        def attempt(function, *arguments):
            try: function(*arguments); return "won"
            except OSError as error: return name_of(error)
        def in_time(condition):
            """Whether it becomes true before a name may have been cached for longer than allowed (and some time for a busy machine)."""
            deadline = time.monotonic() + ${META_TTL_MS / 1000} + 1
            while time.monotonic() < deadline:
                if condition(): return True
                time.sleep(0.01)
            return condition()
      `;
    expect(await lab.python("/", `${preamble}\n${snippet}`)).toEqual([...lines]);
  }, 60_000);
}

together(
  "after close or fsync, an open elsewhere sees the data; attributes and listings follow at once, names in meta_ttl_ms",
  py`
    wrong = []
    for i in range(12):
        one, two = (A, B) if i % 2 == 0 else (B, A)
        put(f"{one}/f", f"content {i}" * (i + 1))
        if get(f"{two}/f").decode() != f"content {i}" * (i + 1): wrong.append(("close", i))
        fd = os.open(f"{one}/f", os.O_WRONLY); os.pwrite(fd, b"SYNCED", 0); os.fsync(fd)
        if get(f"{two}/f")[:6] != b"SYNCED": wrong.append(("fsync", i))
        os.close(fd)
        os.chmod(f"{one}/f", 0o600 + i % 8)
        if os.stat(f"{two}/f").st_mode & 0o777 != 0o600 + i % 8: wrong.append(("chmod", i))
        if os.stat(f"{two}/f").st_size != len(f"content {i}" * (i + 1)): wrong.append(("size", i))
        os.mkdir(f"{one}/d{i}")
        if f"d{i}" not in os.listdir(two) or os.stat(two).st_nlink != os.stat(one).st_nlink: wrong.append(("mkdir", i))
        os.rename(f"{one}/d{i}", f"{one}/e{i}")
        if not in_time(lambda: os.path.isdir(f"{two}/e{i}") and not os.path.exists(f"{two}/d{i}")): wrong.append(("rename", i))
        os.rmdir(f"{two}/e{i}")
        if not in_time(lambda: not os.path.exists(f"{one}/e{i}")): wrong.append(("rmdir", i))
        if attempt(os.stat, f"{two}/missing{i}") != "ENOENT": wrong.append("missing")
        put(f"{one}/missing{i}")
        if not in_time(lambda: os.path.exists(f"{two}/missing{i}")): wrong.append(("negative entry", i))
        os.truncate(f"{two}/f", 3)
        if get(f"{one}/f") != b"SYN": wrong.append(("truncate", i))
    show("wrong", wrong); show("same list", sorted(os.listdir(A)) == sorted(os.listdir(B)))
  `,
  ["wrong: []", "same list: True"],
);

together(
  "of those who race for a name, one wins",
  py`
    put(A + "/source", "x")
    ways = {
        "O_EXCL": lambda at, i: os.close(os.open(f"{at}/excl{i}", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)),
        "mkdir": lambda at, i: os.mkdir(f"{at}/dir{i}"), "symlink": lambda at, i: os.symlink(at, f"{at}/sym{i}"),
        "link": lambda at, i: os.link(f"{at}/source", f"{at}/link{i}"), "mknod": lambda at, i: os.mkfifo(f"{at}/fifo{i}"),
    }
    for name, way in ways.items():
        results = at_once(*[lambda at=at: [attempt(way, at, i) for i in range(40)] for at in (A, B, A, B)])
        show(name, all(sorted(each) == ["EEXIST"] * 3 + ["won"] for each in zip(*results)))
    show("links", os.stat(B + "/source").st_nlink); show("folders", os.stat(A).st_nlink == os.stat(B).st_nlink == 42)
    results = at_once(*[lambda at=at: [attempt(os.unlink, f"{at}/excl{i}") for i in range(40)] for at in (A, B)])
    show("unlink", all(sorted(each) == ["ENOENT", "won"] for each in zip(*results)))
    results = at_once(*[lambda at=at, side=side: [attempt(os.rename, f"{at}/dir{i}", f"{at}/{side if i < 20 else 'same'}{i}") for i in range(40)] for at, side in ((A, "a"), (B, "b"))])
    # Those to one new name: a kernel that still has the old one cached sees two names of one folder, and says ok without asking.
    show("rename", [(i, each) for i, each in enumerate(zip(*results)) if sorted(each) != ["ENOENT", "won"] and (i < 20 or each != ("won", "won"))])
    results = at_once(*[lambda at=at: [attempt(os.rmdir, f"{at}/{side}{i}") for side in ("a", "b", "same") for i in range(40)] for at in (A, B)])
    show("rmdir", [sum(each.count("won") for each in results), os.stat(A).st_nlink, os.stat(B).st_nlink])
    at_once(*[lambda at=at: [attempt(lambda: os.close(os.open(f"{at}/plain{i}", os.O_CREAT | os.O_WRONLY))) for i in range(40)] for at in (A, B)])
    show("without O_EXCL", sorted(os.listdir(A)) == sorted(os.listdir(B)) and sum(n.startswith("plain") for n in os.listdir(A)))
  `,
  [
    "O_EXCL: True",
    "mkdir: True",
    "symlink: True",
    "link: True",
    "mknod: True",
    "links: 41",
    "folders: True",
    "unlink: True",
    "rename: []",
    "rmdir: [40, 2, 2]",
    "without O_EXCL: 40",
  ],
);

together(
  "appends from both sides: nothing is lost, every write is whole",
  py`
    put(A + "/log")
    def append(at, who, synced):
        fd = os.open(at + "/log", os.O_WRONLY | os.O_APPEND)
        for i in range(60):
            os.write(fd, f"<{who} {i:03d} {'x' * (i * 37 % 3000)}>\n".encode())
            if synced: os.fsync(fd)
        os.close(fd)
    at_once(lambda: append(A, "a", True), lambda: append(B, "b", True), lambda: append(A, "c", False), lambda: append(B, "d", False))
    for at in (A, B):
        lines = get(at + "/log").decode().splitlines()
        for who in "abcd":
            show(who, [line for line in lines if line.startswith(f"<{who} ")] == [f"<{who} {i:03d} {'x' * (i * 37 % 3000)}>" for i in range(60)])
        show("lines", len(lines))
  `,
  ["A", "B"].flatMap(() => [..."abcd"].map((who) => `${who}: True`).concat("lines: 240")),
);

together(
  "writers of different ranges of one file: none of their writes is lost",
  py`
    size = 4_000_000; put(A + "/f", bytes(size))
    def write(at, which):
        fd = os.open(at + "/f", os.O_RDWR)
        for i in range(which, size // 10_000, 4):
            os.pwrite(fd, bytes([which + 1]) * 10_000, i * 10_000)
            if i % 20 == which: os.fsync(fd)
        os.close(fd)
    at_once(*[lambda at=at, which=which: write(at, which) for which, at in enumerate((A, B, A, B))])
    expected = b"".join(bytes([i % 4 + 1]) * 10_000 for i in range(size // 10_000))
    show("A", get(A + "/f") == expected); show("B", get(B + "/f") == expected)
  `,
  ["A: True", "B: True"],
);

together(
  "two folders renamed into each other at once never become a cycle",
  py`
    outcomes = set()
    for i in range(40):
        os.mkdir(A + "/x"); os.mkdir(A + "/y"); os.makedirs(A + "/x/in"); os.makedirs(A + "/y/in")
        results = at_once(lambda: attempt(os.rename, A + "/x", A + "/y/in/x"), lambda: attempt(os.rename, B + "/y", B + "/x/in/y"))
        names = sorted(name for _, folders, _ in os.walk(A) for name in folders)
        if results.count("won") != 1 or names != ["in", "in", "x", "y"] or sorted(n for _, f, _ in os.walk(B) for n in f) != names:
            show("round", (i, results, names, os.listdir(A)))
            break
        outcomes.update(results)
        for at, folders, files in os.walk(A, topdown=False):
            for name in folders: os.rmdir(os.path.join(at, name))
    show("left", os.listdir(B)); show("outcomes", outcomes <= {"won", "ENOENT", "EINVAL"})
  `,
  ["left: []", "outcomes: True"],
);
