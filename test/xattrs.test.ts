/** Extended attributes. */
import { PosixLab, py } from "./support/posix.ts";

const lab = new PosixLab();

lab.same(
  "set, get, list, remove on every kind; flags and errors",
  py`
    put("f"); os.mkdir("d"); os.symlink("f", "l"); os.mkfifo("p")
    for path in ["f", "d", "l", "p"]:
        for name in ["user.a", "trusted.a", "security.a", "security.selinux.x"]:
            label = f"{path} {name}"
            do(f"{label}: get none", os.getxattr, path, name, follow_symlinks=False)
            do(f"{label}: replace none", os.setxattr, path, name, b"0", os.XATTR_REPLACE, follow_symlinks=False)
            do(f"{label}: create", os.setxattr, path, name, b"one", os.XATTR_CREATE, follow_symlinks=False)
            do(f"{label}: create again", os.setxattr, path, name, b"two", os.XATTR_CREATE, follow_symlinks=False)
            do(f"{label}: get", os.getxattr, path, name, follow_symlinks=False)
            do(f"{label}: replace", os.setxattr, path, name, b"\0binary\xff", os.XATTR_REPLACE, follow_symlinks=False)
            do(f"{label}: get", os.getxattr, path, name, follow_symlinks=False)
            do(f"{label}: empty value", os.setxattr, path, name, b"", follow_symlinks=False)
            do(f"{label}: get", os.getxattr, path, name, follow_symlinks=False)
        do(f"{path}: list", lambda: sorted(os.listxattr(path, follow_symlinks=False)))
        do(f"{path}: remove", os.removexattr, path, "trusted.a", follow_symlinks=False)
        do(f"{path}: remove again", os.removexattr, path, "trusted.a", follow_symlinks=False)
        do(f"{path}: list", lambda: sorted(os.listxattr(path, follow_symlinks=False)))
    do("through the link", os.setxattr, "l", "user.via", b"link"); do("is", os.getxattr, "f", "user.via")
    for name in ["nonsense", "user.", "other.x", "", "user." + "n" * 250, "user." + "n" * 251, "system.x"]:
        do(f"name {name[:12]!r} {len(name)}", os.setxattr, "f", name, b"x"); do("  get", os.getxattr, "f", name); do("  remove", os.removexattr, "f", name)
    do("missing file", os.getxattr, "missing", "user.x"); do("unknown flags", os.setxattr, "f", "user.y", b"", 8); do("both flags", os.setxattr, "f", "user.y", b"", 3)
    fd = os.open("f", os.O_RDONLY); do("by descriptor", os.setxattr, fd, "user.fd", b"1"); do("by descriptor", os.getxattr, fd, "user.fd"); do("list", lambda: sorted(os.listxattr(fd)))
  `,
);

lab.same(
  "sizes: asking for the length, and ERANGE",
  py`
    put("f"); os.setxattr("f", "user.v", b"0123456789"); os.setxattr("f", "user.empty", b"")
    def raw_get(size): buffer = ctypes.create_string_buffer(100); return check(libc.getxattr(b"f", b"user.v", buffer, size))
    for size in [0, 1, 9, 10, 11, 100]: do(f"get into {size}", raw_get, size)
    def raw_list(size): buffer = ctypes.create_string_buffer(100); return check(libc.listxattr(b"f", buffer, size))
    for size in [0, 1, 17, 18, 19, 100]: do(f"list into {size}", raw_list, size)
    do("get an empty value into 0", lambda: check(libc.getxattr(b"f", b"user.empty", None, 0)))
    put("none"); do("list of none", lambda: check(libc.listxattr(b"none", None, 0)))
  `,
);

lab.prints(
  "values to 64 KiB, many names, and what is too much",
  py`
    put("f")
    for size in [1, 4096, 65535, 65536]:
        value = pattern(size, size); do(f"{size}", os.setxattr, "f", "user.big", value); show("same", os.getxattr("f", "user.big") == value)
    do("65537", os.setxattr, "f", "user.big", bytes(65537))
    show("still", os.getxattr("f", "user.big") == pattern(65536, 65536))
    for i in range(50): os.setxattr("f", f"user.number {i}", pattern(3000, i))
    show("names", len(os.listxattr("f"))); show("values", all(os.getxattr("f", f"user.number {i}") == pattern(3000, i) for i in range(50)))
    os.unlink("f"); put("f"); do("a new file has none", os.listxattr, "f")
  `,
  [
    "1: ok",
    "same: True",
    "4096: ok",
    "same: True",
    "65535: ok",
    "same: True",
    "65536: ok",
    "same: True",
    "65537: E2BIG",
    "still: True",
    "names: 51",
    "values: True",
    "a new file has none: []",
  ],
);

lab.prints(
  "POSIX ACLs are refused, and nothing is left of them",
  py`
    put("f"); os.mkdir("d")
    acl = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", tag, perm, who) for tag, perm, who in [(1, 6, 2**32 - 1), (2, 7, 1000), (4, 4, 2**32 - 1), (16, 7, 2**32 - 1), (32, 4, 2**32 - 1)])
    for path, name in [("f", "access"), ("d", "access"), ("d", "default")]:
        full = "system.posix_acl_" + name
        do(f"{path} set {name}", os.setxattr, path, full, acl); do(f"{path} get {name}", os.getxattr, path, full); do(f"{path} remove {name}", os.removexattr, path, full)
        do("list", os.listxattr, path); show_stat(path)
  `,
  ["f access", "d access", "d default"].flatMap((which) => {
    const [path, name] = which.split(" ");
    const isFile = path === "f";
    return [
      ...["set", "get", "remove"].map((action) => `${path} ${action} ${name}: ENOTSUP`),
      "list: []",
      isFile ? "stat 'f': 'file, 0644, nlink 1, 0:0, size 0'" : "stat 'd': 'folder, 0755, nlink 2, 0:0'",
    ];
  }),
);

lab.same(
  "who may read and write them",
  py`
    os.chmod(".", 0o777); os.mkdir("sticky"); os.chmod("sticky", 0o1777)
    for path, owner, mode in [("root's", 0, 0o644), ("secret", 0, 0o600), ("writable", 0, 0o666), ("mine", 1000, 0o600)]:
        put(path); os.chown(path, owner, owner); os.chmod(path, mode)
        for name in ["user.x", "trusted.x", "security.x"]: os.setxattr(path, name, b"v")
    def user():
        for path in ["root's", "secret", "writable", "mine", "sticky"]:
            for name in ["user.x", "trusted.x", "security.x"]:
                do(f"get {path} {name}", os.getxattr, path, name); do(f"set {path} {name}", os.setxattr, path, name, b"w"); do(f"remove {path} {name}", os.removexattr, path, name)
            do(f"list {path}", lambda: sorted(os.listxattr(path)))
    as_user(1000, 1000, user)
  `,
);

lab.same(
  "times, links, renames, and file capabilities that a write ends",
  py`
    put("f", "x"); moved("set", "f", os.setxattr, "f", "user.a", b"1"); moved("get", "f", os.getxattr, "f", "user.a"); moved("remove", "f", os.removexattr, "f", "user.a")
    os.setxattr("f", "user.a", b"kept"); os.link("f", "g"); os.rename("f", "h"); show("both", (os.getxattr("g", "user.a"), os.getxattr("h", "user.a")))
    capability = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)
    for name, action in {"write": lambda: put("c", "y"), "append": lambda: with_fd("c", os.O_WRONLY | os.O_APPEND, lambda fd: (os.write(fd, b"z"), None)[1]), "truncate": lambda: os.truncate("c", 0),
                   "chown": lambda: os.chown("c", 5, 5), "chmod": lambda: os.chmod("c", 0o700), "utime": lambda: os.utime("c")}.items():
        put("c", "x"); os.setxattr("c", "security.capability", capability); os.setxattr("c", "user.k", b"k")
        action(); do(name, lambda: sorted(os.listxattr("c")))
    do("not a capability", os.setxattr, "c", "security.capability", b"nonsense")
    fd = os.open("h", os.O_RDWR); os.write(fd, b"dirty"); do("while dirty", os.setxattr, fd, "user.d", b"1"); os.close(fd); do("then", os.getxattr, "h", "user.d"); show("content", get("h"))
  `,
);
