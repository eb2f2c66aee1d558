/** rename(2) and renameat2(2): every combination of types and flags, and what they leave behind. */
import { PosixLab, py } from "./support/posix.ts";

const lab = new PosixLab();

/** Makes one of each kind: what stands at a name before a rename. */
const KINDS = py`
  def nothing(path): pass
  def file(path): put(path, path)
  def empty_folder(path): os.mkdir(path)
  def full_folder(path): os.mkdir(path); put(path + "/inside", path)
  def link(path): os.symlink("target of " + path, path)
  def fifo(path): os.mkfifo(path)
  kinds = [nothing, file, empty_folder, full_folder, link, fifo]
`;

for (const [flagName, flags] of [
  ["no flags", 0],
  ["RENAME_NOREPLACE", 1],
  ["RENAME_EXCHANGE", 2],
  ["NOREPLACE with EXCHANGE", 3],
  ["an unknown flag", 64],
] as const) {
  lab.same(
    `every kind over every kind, ${flagName}`,
    py`
      ${KINDS.replaceAll("\n", "\n      ")}
      for make_old in kinds:
          for make_new in kinds:
              place = f"{make_old.__name__} to {make_new.__name__}"
              os.mkdir(place)
              os.mkdir(place + "/other")
              for new in ["new", "other/new"]:
                  old = "old" if new == "new" else "old2"
                  make_old(f"{place}/{old}")
                  make_new(f"{place}/{new}")
                  do(f"{place} as {new}", renameat2, f"{place}/{old}", f"{place}/{new}", ${flags})
              show(place, st(place))
              tree(place)
    `,
  );
}

lab.same(
  "into itself, onto itself, and by names that can't be renamed",
  py`
    os.makedirs("a/b/c")
    put("f", "x")
    os.link("f", "g")
    do("into itself", os.rename, "a", "a/x")
    do("far into itself", os.rename, "a", "a/b/c/x")
    do("onto its child", os.rename, "a", "a/b")
    do("child onto its parent", os.rename, "a/b", "a")
    do("grandchild onto its ancestor", os.rename, "a/b/c", "a")
    do("exchange with its descendant", renameat2, "a", "a/b/c", RENAME_EXCHANGE)
    do("exchange with its ancestor", renameat2, "a/b/c", "a", RENAME_EXCHANGE)
    do("onto itself", os.rename, "a", "a")
    do("onto itself, NOREPLACE", renameat2, "a", "a", RENAME_NOREPLACE)
    do("exchange with itself", renameat2, "a", "a", RENAME_EXCHANGE)
    do("two names of one file", os.rename, "f", "g")
    do("two names of one file, exchanged", renameat2, "f", "g", RENAME_EXCHANGE)
    do("dot", os.rename, "a/.", "x")
    do("dot dot", os.rename, "a/b/..", "x")
    do("to dot", os.rename, "f", "a/.")
    do("file with a slash", os.rename, "f/", "x")
    do("file to a name with a slash", os.rename, "f", "x/")
    do("folder to a name with a slash", os.rename, "a", "x/")
    do("missing", os.rename, "missing", "y")
    do("below a missing folder", os.rename, "f", "missing/y")
    do("below a file", os.rename, "f", "g/y")
    do("too long", os.rename, "f", "n" * 256)
    do("from too long", os.rename, "n" * 256, "f")
    do("empty", os.rename, "f", "")
    tree()
  `,
  { shows: ["into itself: EINVAL", "two names of one file: ok"] },
);

lab.same(
  "link counts and times of everything that takes part",
  py`
    os.makedirs("from/folder/sub")
    os.makedirs("to/folder2")
    put("from/file", "1")
    put("to/file2", "2")
    os.link("to/file2", "to/second name")
    watched = ["from", "to"]
    moved("a new name in the same folder", ["from", "from/folder"], os.rename, "from/file", "from/renamed")
    moved("a file to another folder", watched, os.rename, "from/renamed", "to/file")
    moved("a file over a file", watched + ["to/second name"], os.rename, "to/file", "to/file2")
    moved("a folder to another folder", watched, os.rename, "from/folder", "to/folder")
    tree()
    moved("a folder over a folder", watched, os.rename, "to/folder", "to/folder2")
    moved("exchange of a folder and a file", watched, renameat2, "to/folder2", "to/file2", RENAME_EXCHANGE)
    os.mkdir("from/plain")
    moved("exchange of a folder and a file of two folders", watched, renameat2, "from/plain", "to/folder2", RENAME_EXCHANGE)
    moved("refused", watched, os.rename, "to", "to/x")
    moved("onto itself", watched, os.rename, "to/file2", "to/file2")
    for path in [".", "from", "to"]: show_stat(path)
    tree()
  `,
);

lab.same(
  "the renamed inode's ctime moves, and its parent is the new folder",
  py`
    os.makedirs("one/x"); os.makedirs("two")
    put("one/f")
    for path in ["one/x", "one/f"]:
        before = os.lstat(path); time.sleep(0.02)
        os.rename(path, "two/moved"); after = os.lstat("two/moved")
        show(path, (after.st_ino == before.st_ino, after.st_mtime_ns == before.st_mtime_ns, after.st_ctime_ns > before.st_ctime_ns))
        if path == "one/x": show("..", os.stat("two/moved/..").st_ino == os.stat("two").st_ino)
        os.rename("two/moved", "two/kept" + path[-1])
  `,
  { shows: ["one/x: (True, True, True)", "one/f: (True, True, True)", "..: True"] },
);

lab.same(
  "a replaced file stays readable and writable for those who have it open",
  py`
    put("old", "old content")
    put("new", "new content")
    fd = os.open("old", os.O_RDWR)
    os.rename("new", "old")
    show("stat", st(fd))
    do("read", os.pread, fd, 100, 0)
    do("write", os.pwrite, fd, b"ghost", 0)
    do("read again", os.pread, fd, 100, 0)
    do("fsync", os.fsync, fd)
    do("by name", get, "old")
    os.close(fd)
    do("by name", get, "old")
    tree()
  `,
);

lab.same(
  "an open file and a working directory follow their rename",
  py`
    os.makedirs("dir/inner")
    fd = os.open("dir/f", os.O_RDWR | os.O_CREAT, 0o644)
    os.write(fd, b"before ")
    os.chdir("dir/inner")
    os.rename("../../dir", "../../elsewhere")
    os.write(fd, b"after")
    put("made here", "x")
    os.fsync(fd)
    os.chdir("../..")
    show("content", get("elsewhere/f"))
    os.close(fd)
    tree()
  `,
);

lab.same(
  "unwritten data moves with the name",
  py`
    fd = os.open("a", os.O_WRONLY | os.O_CREAT, 0o644)
    os.write(fd, pattern(300000))
    put("b", "b")
    os.rename("a", "b")
    show("through the new name", digest(get("b")))
    os.write(fd, b"more")
    show("size", os.stat("b").st_size)
    os.close(fd)
    show("closed", digest(get("b")))
  `,
);

lab.same(
  "sticky folders and the write permission of moved folders",
  py`
    os.mkdir("sticky"); os.chmod("sticky", 0o1777)
    os.mkdir("open"); os.chmod("open", 0o777)
    put("sticky/root's", "r"); os.chmod("sticky/root's", 0o666)
    os.mkdir("open/root's folder"); os.chmod("open/root's folder", 0o755)
    os.mkdir("closed")
    put("closed/f")
    def user():
        put("sticky/mine"); put("open/mine")
        do("another's out of a sticky folder", os.rename, "sticky/root's", "open/stolen")
        do("over another's in a sticky folder", os.rename, "sticky/mine", "sticky/root's")
        do("mine in a sticky folder", os.rename, "sticky/mine", "sticky/mine2")
        do("exchange with another's", renameat2, "sticky/mine2", "sticky/root's", RENAME_EXCHANGE)
        do("a folder that I can't write, same parent", os.rename, "open/root's folder", "open/renamed")
        do("a folder that I can't write, new parent", os.rename, "open/renamed", "sticky/renamed")
        do("from a closed folder", os.rename, "closed/f", "open/f")
        do("to a closed folder", os.rename, "open/mine", "closed/mine")
    as_user(1000, 1000, user)
    tree()
  `,
);
