/** One byte of a record altered on the node's disk costs the one entry that it belongs to: all else is there, and what is damaged can be removed. */
import { Database } from "bun:sqlite";
import { expect, test } from "bun:test";
import { join } from "node:path";
import { recordCrc } from "../src/node/engines/sqlite-database.ts";
import { dentryPrefix, inodeKey, inodeOfKey, prefixEnd, regionPrefix, xattrPrefix } from "../src/protocol/record-keys.ts";
import { PosixLab, py } from "./support/posix.ts";

const TEST_TIMEOUT_MS = 60_000;
const lab = new PosixLab();

/** What of a record is altered: its sealed value, noticed by the node or, with the node's checksum made anew, by the client; or what the node keeps beside it. */
const WHERE = ["value", "value and checksum", "link", "version"] as const;
type Where = (typeof WHERE)[number] | "chunk list";

interface Row {
  key: Uint8Array;
  version: number;
  link: number;
  crc: number;
  chunks: Uint8Array | null;
  value: Uint8Array;
}

/** Alters the only record whose key starts with `prefix` (and whose link is `link`, where given). */
function alter(db: Database, where: Where, prefix: Uint8Array, link?: number): void {
  const rows = db
    .query<Row, [Uint8Array, Uint8Array]>("SELECT * FROM records WHERE key >= ? AND key < ?")
    .all(prefix, prefixEnd(prefix) as Uint8Array)
    .filter((row) => link === undefined || row.link === link);
  expect(rows).toHaveLength(1);
  const row = rows[0] as Row;
  const bytes = where === "chunk list" ? row.chunks : row.value;
  if (where === "link") row.link ^= 1;
  else if (where === "version") row.version += 2 ** 20;
  else if (bytes !== null) bytes[bytes.length >> 1] = (bytes[bytes.length >> 1] as number) ^ 0x20;
  if (where === "value and checksum") row.crc = recordCrc(row.key, row.version, row.link, row.value);
  const values = [row.version, row.link, row.crc, row.chunks, row.value, row.key] as const;
  db.query("UPDATE records SET version = ?, link = ?, crc = ?, chunks = ?, value = ? WHERE key = ?").run(...values);
}

const MAKE = py`
    for kind in ["entry-file", "entry-folder", "file", "folder", "symlink", "small", "large", "xattr"]:
        os.makedirs(kind + "/sub/inner")
        for name in ["a", "b", "sub/x", "sub/inner/y"]: open(kind + "/" + name, "w").write(name * 10)
    os.link("file/a", "file/sub/hard"); os.symlink("a", "file/link")
    for name in ["link", "other"]: os.symlink("a", "symlink/" + name)
    open("large/a", "wb").write(os.urandom(1 << 20))
    for name in ["one", "two", "three"]: os.setxattr("xattr/a", "user." + name, name.encode())
    os.removexattr("xattr/a", "user.two"); os.removexattr("xattr/a", "user.three")
    os.setxattr("xattr/b", "user.other", b"x")
    for path in ["entry-file", "entry-file/a", "entry-folder", "entry-folder/sub", "file/a", "folder/sub", "symlink/link", "small/a", "large/a", "xattr/a"]:
        print(os.lstat(path).st_ino)
`;

const HELPERS = py`
    import subprocess
    def attempt(f):
        try: return f()
        except OSError as error: return errno.errorcode[error.errno]
    def read(path): return attempt(lambda: open(path).read())
    def rm(path): print(subprocess.run(["rm", "-rf", path], capture_output=True, text=True).stderr, os.path.lexists(path))
    def beside(kind, names=["a", "b", "sub/x", "sub/inner/y"]):
        print(kind, [name for name in names if read(kind + "/" + name) != name * 10])
`;

/** What a user finds, kind by kind, and that rm -rf leaves nothing. */
const LOOK = py`
    # An entry that lost its name: listed under one that stands for it, to be removed.
    beside("entry-file", ["b", "sub/x", "sub/inner/y"])
    one, *others = sorted(os.listdir("entry-file")); path = "entry-file/" + one
    other = path[:-2] + ("11" if path.endswith("00") else "00")
    print(one.startswith(".kiseki-damaged-"), others, os.path.exists("entry-file/a"))
    print(read(path), attempt(lambda: os.stat(path)), attempt(lambda: os.rename(path, "new")), attempt(lambda: os.link(path, "new")))
    print(attempt(lambda: os.rename("entry-file/b", path)), attempt(lambda: open(other, "w")), attempt(lambda: os.mkdir(other)))
    print(subprocess.run(["rm", path], capture_output=True, text=True).stderr, sorted(os.listdir("entry-file")), os.stat("entry-file").st_nlink)
    rm("entry-file")
    # A folder that lost its name keeps what is in it, and can be given a name again.
    beside("entry-folder", ["a", "b"])
    one, *others = sorted(os.listdir("entry-folder")); path = "entry-folder/" + one
    print(one.startswith(".kiseki-damaged-"), others, sorted(os.listdir(path)), read(path + "/x"), os.stat("entry-folder").st_nlink)
    os.rename(path, "entry-folder/sub"); beside("entry-folder"); print(os.stat("entry-folder").st_nlink)
    rm("entry-folder")
    # A file that lost its attributes: its names are there.
    beside("file", ["b", "sub/x", "sub/inner/y"])
    print(sorted(os.listdir("file")), sorted(os.listdir("file/sub")), read("file/a"), read("file/sub/hard"), attempt(lambda: os.stat("file/a")))
    print(attempt(lambda: os.chmod("file/a", 0o600)), attempt(lambda: os.rename("file/a", "file/c")), attempt(lambda: open("file/a", "w")))
    print(subprocess.run(["rm", "file/a"], capture_output=True, text=True).stderr, sorted(os.listdir("file")), read("file/sub/hard"))
    open("file/a", "w").write("new"); print(read("file/a")); os.rename("file/a", "file/sub/hard"); print(read("file/sub/hard"))
    rm("file")
    # A folder that lost its attributes: what is in it can be reached, and changed.
    beside("folder"); print(oct(os.stat("folder/sub").st_mode), os.stat("folder/sub").st_nlink, sorted(os.listdir("folder/sub")))
    open("folder/sub/new", "w").write("n"); print(attempt(lambda: os.rmdir("folder/sub")), attempt(lambda: os.chmod("folder/sub", 0o755)), attempt(lambda: os.rename("folder/sub", "new")))
    rm("folder")
    # A symbolic link that lost its attributes, and what it leads to with them.
    beside("symlink"); print(sorted(os.listdir("symlink")), attempt(lambda: os.readlink("symlink/link")), read("symlink/link"), os.readlink("symlink/other"))
    print(subprocess.run(["rm", "symlink/link"], capture_output=True, text=True).stderr, sorted(os.listdir("symlink"))); rm("symlink")
    # A file that lost the list of what it consists of.
    for kind in ["small", "large"]:
        beside(kind, ["b", "sub/x", "sub/inner/y"]); print(sorted(os.listdir(kind)), read(kind + "/a"), os.stat(kind + "/a").st_size)
        if kind == "large": open("large/a", "w").write("again"); print(read("large/a"))
        rm(kind)
    # An extended attribute.
    beside("xattr"); print(attempt(lambda: os.getxattr("xattr/a", "user.one")), attempt(lambda: os.getxattr("xattr/a", "user.two")), os.getxattr("xattr/b", "user.other"))
    os.setxattr("xattr/a", "user.new", b"n"); print(os.listxattr("xattr/a"), attempt(lambda: os.getxattr("xattr/a", "user.one")))
    os.removexattr("xattr/a", "user.one"); print(os.listxattr("xattr/a"), attempt(lambda: os.getxattr("xattr/a", "user.one")))
    rm("xattr")
    print(os.listdir("."), os.stat(".").st_nlink)
`;

const FOUND = [
  "entry-file []",
  "True ['b', 'sub'] False",
  "EIO EIO EIO EIO",
  "EINVAL EINVAL EINVAL",
  " ['b', 'sub'] 3",
  " False",
  "entry-folder []",
  "True ['a', 'b'] ['inner', 'x'] sub/xsub/xsub/xsub/xsub/xsub/xsub/xsub/xsub/xsub/x 3",
  "entry-folder []",
  "3",
  " False",
  "file []",
  "['a', 'b', 'link', 'sub'] ['hard', 'inner', 'x'] EIO EIO EIO",
  "EIO EIO EIO",
  " ['b', 'link', 'sub'] EIO",
  "new",
  "new",
  " False",
  "folder []",
  "0o40700 3 ['inner', 'x']",
  "ENOTEMPTY EIO EIO",
  " False",
  "symlink []",
  "['a', 'b', 'link', 'other', 'sub'] EIO EIO a",
  " ['a', 'b', 'other', 'sub']",
  " False",
  "small []",
  "['a', 'b', 'sub'] EIO 10",
  " False",
  "large []",
  "['a', 'b', 'sub'] EIO 1048576",
  "again",
  " False",
  "xattr []",
  "EIO ENODATA b'x'",
  "['user.new'] EIO",
  "['user.new'] ENODATA",
  " False",
  "[] 2",
];

/** What the log says was lost, each once. */
const LOST = [
  "an extended attribute of inode",
  "region 0 of inode",
  "region 0 of inode",
  "the attributes of inode",
  "the attributes of inode",
  "the attributes of inode",
  "the name of an entry of folder",
  "the name of an entry of folder",
];

const INODES = [
  "entry-file",
  "entry-file/a",
  "entry-folder",
  "entry-folder/sub",
  "file/a",
  "folder/sub",
  "symlink/link",
  "small/a",
  "large/a",
  "xattr/a",
] as const;

/** Makes the tree in a folder of its own, stops the node for `damage`, and runs a snippet there on a new mount. */
async function look(
  folder: string,
  damage: (db: Database, inoOf: (path: (typeof INODES)[number]) => number) => void,
  snippet: string,
): Promise<string[]> {
  await lab.python(lab.mount.path, `os.mkdir("${folder}")`);
  const numbers = (await lab.python(join(lab.mount.path, folder), MAKE)).map(Number);
  await lab.node.stop();
  const db = new Database(join(lab.node.dataDir, "tenants/t/namespaces/default/shard.db"), { readwrite: true });
  damage(db, (path) => numbers[INODES.indexOf(path)] ?? 0);
  db.close();
  await lab.node.restart();
  await lab.remount();
  return await lab.python(join(lab.mount.path, folder), HELPERS + snippet);
}

test(
  "one byte of a record altered costs its own entry, and rm works",
  async () => {
    for (const where of WHERE) await oneByte(where);
  },
  WHERE.length * TEST_TIMEOUT_MS,
);

async function oneByte(where: (typeof WHERE)[number]): Promise<void> {
  const lines = await look(
    where.replaceAll(" ", "-"),
    (db, inoOf) => {
      alter(db, where, dentryPrefix(inoOf("entry-file")), inoOf("entry-file/a"));
      // What an entry led to is found again by its link: the folder is, when that is right.
      alter(db, where === "link" ? "value" : where, dentryPrefix(inoOf("entry-folder")), inoOf("entry-folder/sub"));
      alter(db, where, inodeKey(inoOf("file/a")));
      alter(db, where, inodeKey(inoOf("folder/sub")));
      alter(db, where, inodeKey(inoOf("symlink/link")));
      alter(db, where, regionPrefix(inoOf("small/a")));
      alter(db, where, regionPrefix(inoOf("large/a")));
      alter(db, where, xattrPrefix(inoOf("xattr/a")));
    },
    LOOK,
  );
  expect(lines).toEqual(FOUND);
  const log = lab.mount.log().split("\n");
  const told = log.flatMap((line) => /damaged on the storage node: (.*?)( [0-9]+)? can't be read/.exec(line)?.[1] ?? []);
  expect(told.sort()).toEqual(LOST);
  // Who asks again and again fills no log.
  expect(log.filter((line) => line.includes("operation failed"))).toEqual([]);
}

test(
  "the node's list of a file's chunks altered: the file is read, written and removed as ever",
  async () => {
    const lines = await look(
      "chunk-list",
      (db, inoOf) => alter(db, "chunk list", regionPrefix(inoOf("large/a"))),
      py`
          before = open("large/a", "rb").read(); print(len(before))
          with open("large/a", "r+b") as file: file.seek(1000); file.write(b"x" * 100_000)
          print(open("large/a", "rb").read() == before[:1000] + b"x" * 100_000 + before[101_000:]); rm("large")
      `,
    );
    expect(lines).toEqual(["1048576", "True", " False"]);
  },
  TEST_TIMEOUT_MS,
);

/** A tree of files whose content is their path, many times, and what of it is found after damage. */
const MAKE_TREE = py`
    for i in range(6):
        os.makedirs(f"{i}/deep/er")
        for name in ["a", "b", "deep/c", "deep/er/d"]:
            path = f"{i}/{name}"
            open(path, "w").write(path * (10 if name == "a" else 20_000))
            if name == "b": os.setxattr(path, "user.path", path.encode())
        os.symlink("a", f"{i}/link"); os.link(f"{i}/a", f"{i}/deep/hard")
`;
const WALK_TREE = py`
    wrong, right, lost = [], 0, 0
    def look(path):
        global right, lost
        try: names = os.listdir(path)
        except OSError as error: wrong.append((path, errno.errorcode[error.errno])); return
        for name in names:
            at = os.path.join(path, name)
            try:
                if stat.S_ISDIR(os.lstat(at).st_mode): look(at); continue
                if stat.S_ISLNK(os.lstat(at).st_mode): right += os.readlink(at) == "a"; continue
                text = open(at).read(); source = at.replace("deep/hard", "a").removeprefix("./")
                if len(text) > 0 and set(text.split(source)) <= {""}: right += 1
                elif "kiseki-damaged" not in at: wrong.append((at, text[:30]))
                for key in os.listxattr(at):
                    if os.getxattr(at, key).decode() != source and "kiseki-damaged" not in at: wrong.append((at, key))
            except OSError as error:
                lost += 1
                if error.errno != errno.EIO: wrong.append((at, errno.errorcode[error.errno]))
    look(".")
    print(wrong, lost > 0, right > 20)
    print(subprocess.run("rm -rf ./* ./.kiseki-damaged-*", shell=True, capture_output=True, text=True).stderr, os.listdir("."))
    open("again", "w").write("x"); print(open("again").read()); os.unlink("again")
`;

test(
  "records damaged at random: what is not is right, what is gives EIO, and rm -rf leaves nothing",
  async () => {
    for (let seed = 1; seed <= 4; seed++) await atRandom(seed);
  },
  4 * TEST_TIMEOUT_MS,
);

async function atRandom(seed: number): Promise<void> {
  const folder = `random-${seed}`;
  await lab.python(lab.mount.path, `os.mkdir("${folder}")`);
  await lab.python(join(lab.mount.path, folder), MAKE_TREE);
  const top = Number((await lab.python(lab.mount.path, `print(os.stat("${folder}").st_ino)`))[0]);
  await lab.node.stop();
  const db = new Database(join(lab.node.dataDir, "tenants/t/namespaces/default/shard.db"), { readwrite: true });
  // Not of what was there before, nor the entries and attributes of the folder itself.
  const rows = db
    .query<Row, []>("SELECT * FROM records ORDER BY key")
    .all()
    .filter(({ key }) => inodeOfKey(key) >= top && !(inodeOfKey(key) === top && key[0] === 1));
  let state = seed;
  const random = (below: number): number => {
    state = (Math.imul(state, 1_103_515_245) + 12_345) >>> 0;
    return (state >>> 8) % below;
  };
  for (let n = 0; n < 8; n++) {
    const row = rows[random(rows.length)] as Row;
    const at = random(row.value.length);
    row.value[at] = (row.value[at] as number) ^ (1 << random(8));
    if (random(2) === 0) row.crc = recordCrc(row.key, row.version, row.link, row.value);
    db.query("UPDATE records SET crc = ?, value = ? WHERE key = ?").run(row.crc, row.value, row.key);
  }
  db.close();
  await lab.node.restart();
  await lab.remount();
  expect(await lab.python(join(lab.mount.path, folder), HELPERS + WALK_TREE)).toEqual(["[] True True", " []", "x"]);
}
