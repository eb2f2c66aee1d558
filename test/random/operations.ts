/** Random file operations for fast-check, as driver.py takes them. Few short names and few open files, so that operations collide. */
import fc from "fast-check";

export interface Operation {
  do: string;
  args: (string | number | null)[];
  /** The user that does it, when not root. */
  as?: number;
  /** The mount that does it, where there are two. */
  via?: number;
}

const OPEN = { RDONLY: 0, WRONLY: 1, RDWR: 2, CREAT: 0o100, EXCL: 0o200, TRUNC: 0o1000, APPEND: 0o2000, NOFOLLOW: 0o400000 };
/** Without it opening a fifo waits for the other end. */
const NONBLOCK = 0o4000;
const NAMES = ["a", "aa", "a-", "b"];
const SLOTS = [0, 1, 2];
/** Around a page, the inline limit and a block. */
const EDGES = [0, 1, 4096, 16_384, 32_768, 65_536, 70_000];
const XATTRS = ["user.a", "user.b", "trusted.a"];
const FALLOCATE = { ALLOCATE: 0, KEEP_SIZE: 1, PUNCH_HOLE: 3, ZERO_RANGE: 0x10, ZERO_RANGE_KEEP_SIZE: 0x11 };
const SOMEBODY = 1000;
const FIFO = 0o010000;
const SOCKET = 0o140000;

const name = fc.constantFrom(...NAMES);
const path = fc.array(name, { minLength: 1, maxLength: 3 }).map((names) => names.join("/"));
/** Where `SETUP` has folders, so that most operations find what they need. */
const usualPath = fc.tuple(fc.constantFrom("", "", "a/", "aa/", "a/b/"), name).map(([folder, last]) => folder + last);
const anyPath = fc.oneof({ weight: 4, arbitrary: usualPath }, { weight: 1, arbitrary: path });
const slot = fc.constantFrom(...SLOTS);
const byteSeed = fc.integer({ min: 0, max: 254 });
const offset = fc.tuple(fc.constantFrom(...EDGES), fc.integer({ min: -3, max: 3 })).map(([edge, by]) => Math.max(0, edge + by));
const length = fc.oneof(offset, fc.integer({ min: 1, max: 300 }));
// Set-gid without group execution is left out: others than root lose it on a local file, on FUSE (HANDLE_KILLPRIV_V2) they keep it.
const fileMode = fc.constantFrom(0o644, 0o600, 0o666, 0o755, 0o4755, 0o2755, 0o0, 0o6777);
const folderMode = fc.constantFrom(0o755, 0o777, 0o700, 0o2775, 0o1777, 0o3777);
const someMode = fc.oneof(fileMode, folderMode);
// Never -1 for both: the kernel does not send that chown to a FUSE server, which would have to clear set-id bits.
const user = fc.constantFrom(-1, 0, SOMEBODY, 1001);
const setTime = fc.integer({ min: 0, max: 999_999_999 }).chain((sec) => fc.constantFrom(0, 1, 999_999_999).map((ns) => sec * 1e9 + ns));
const access = fc.constantFrom(OPEN.RDONLY, OPEN.WRONLY, OPEN.RDWR, OPEN.RDWR, OPEN.RDWR);
const openFlags = fc
  .tuple(access, fc.subarray([OPEN.CREAT, OPEN.EXCL, OPEN.TRUNC, OPEN.APPEND, OPEN.NOFOLLOW]))
  // O_EXCL without O_CREAT is undefined.
  .map(([mode, more]) => more.reduce((all, one) => all | one, mode | NONBLOCK))
  .map((flags) => ((flags & OPEN.CREAT) === 0 ? flags & ~OPEN.EXCL : flags));
const createFlags = access.map((mode) => mode | OPEN.CREAT | NONBLOCK);

type Parts = fc.Arbitrary<string | number | null>[];

function operation(kind: string, ...parts: Parts): fc.Arbitrary<Operation> {
  return fc.tuple(...parts).map((args) => ({ do: kind, args: args as Operation["args"] }));
}

/** Operations by path, with their weights. */
const ON_PATHS: [number, fc.Arbitrary<Operation>][] = [
  [6, operation("mkdir", anyPath, folderMode)],
  [3, operation("rmdir", anyPath)],
  [4, operation("unlink", anyPath)],
  [8, operation("rename", anyPath, anyPath, fc.constantFrom(0, 0, 0, 1, 2, 2, 3))],
  [4, operation("link", anyPath, anyPath)],
  [2, operation("symlink", fc.constantFrom("a", "aa/b", "b", "a-", "./aa"), anyPath)],
  [1, operation("readlink", anyPath)],
  [1, operation("mknod", anyPath, fc.constantFrom(FIFO | 0o644, SOCKET | 0o600, 0o100644), fc.constant(0))],
  [3, operation("readdir", fc.oneof(anyPath, fc.constant(".")))],
  [1, operation("access", anyPath, fc.integer({ min: 0, max: 7 }))],
  [3, operation("stat", anyPath)],
  [3, operation("chmod", anyPath, someMode)],
  [2, operation("chown", anyPath, user, user).filter(({ args }) => args[1] !== -1 || args[2] !== -1)],
  [3, operation("utimens", anyPath, setTime, setTime)],
  [
    2,
    operation(
      "setxattr",
      anyPath,
      fc.constantFrom(...XATTRS),
      fc.constantFrom(0, 1, 100, 1000),
      fc.constantFrom(1, 2, 3),
      fc.constantFrom(0, 0, 1, 2),
    ),
  ],
  [1, operation("getxattr", anyPath, fc.constantFrom(...XATTRS))],
  [1, operation("listxattr", anyPath)],
  [1, operation("removexattr", anyPath, fc.constantFrom(...XATTRS))],
  [2, operation("truncate", anyPath, offset)],
  [3, operation("content", anyPath)],
];
/** Operations of open files. */
const ON_SLOTS: [number, fc.Arbitrary<Operation>][] = [
  [6, operation("open", slot, anyPath, createFlags, fileMode)],
  [6, operation("open", slot, anyPath, openFlags, fileMode)],
  [2, operation("open", fc.constant(null), anyPath, openFlags, fileMode)],
  [5, operation("close", slot)],
  [2, operation("fstat", slot)],
  [1, operation("fchmod", slot, someMode)],
  [1, operation("futimens", slot, setTime, setTime)],
  [10, operation("pwrite", slot, offset, length, byteSeed)],
  [5, operation("pread", slot, offset, length)],
  [3, operation("ftruncate", slot, offset)],
  [3, operation("fallocate", slot, fc.constantFrom(...Object.values(FALLOCATE)), offset, length)],
  [2, operation("copy", slot, offset, slot, offset, length)],
  [1, operation("fsync", slot)],
];

/** One operation, now and then as somebody without privileges. */
export const anyOperation: fc.Arbitrary<Operation> = fc
  .tuple(
    fc.oneof(...[...ON_PATHS, ...ON_SLOTS].map(([weight, arbitrary]) => ({ weight, arbitrary }))),
    fc.oneof({ weight: 6, arbitrary: fc.constant(0) }, { weight: 1, arbitrary: fc.constant(SOMEBODY) }),
  )
  .map(([what, as]) => (as === 0 ? what : { ...what, as }));

/** What leaves nothing open, through either of two mounts: close() makes it visible to the other. */
export const anyOperationOfTwo: fc.Arbitrary<Operation> = fc
  .tuple(
    fc.oneof(...ON_PATHS.map(([weight, arbitrary]) => ({ weight, arbitrary })), {
      weight: 12,
      arbitrary: operation(
        "put",
        anyPath,
        fc
          .constantFrom(OPEN.WRONLY, OPEN.RDWR, OPEN.WRONLY | OPEN.APPEND, OPEN.WRONLY | OPEN.TRUNC)
          .map((flags) => flags | OPEN.CREAT | NONBLOCK),
        offset,
        length,
        byteSeed,
      ),
    }),
    fc.integer({ min: 0, max: 1 }),
  )
  .map(([what, via]) => ({ ...what, via }));

const CREATE = OPEN.RDWR | OPEN.CREAT;
/** What a sequence begins with, or with nothing. */
export const SETUP: Operation[] = [
  { do: "mkdir", args: ["a", 0o777] },
  { do: "mkdir", args: ["aa", 0o2775] },
  { do: "mkdir", args: ["a/b", 0o755] },
  { do: "open", args: [0, "b", CREATE, 0o666] },
  { do: "open", args: [1, "a/a", CREATE | OPEN.APPEND, 0o644] },
  { do: "open", args: [2, "aa/a-", CREATE, 0o644] },
];

/** How a failing sequence is printed: a line an operation. */
export function showOperations(operations: readonly Operation[]): string {
  return operations
    .map(
      ({ do: what, args, as, via }) =>
        `  ${what}(${args.map((a) => JSON.stringify(a)).join(", ")})${as ? ` as ${as}` : ""}${via === undefined ? "" : ` via ${via}`}`,
    )
    .join("\n");
}
