/** Set-id bits and file capabilities on a mount that honours them: they end with the write, for the kernel's own copies too. */
import { PosixLab, py } from "./support/posix.ts";

const lab = new PosixLab({ mount: { args: ["-o", "allow_other,suid,exec"] } });

lab.same(
  "a program of mode 6777 that an unprivileged user has written to runs as that user, at once",
  py`
    import shutil, subprocess
    os.chmod(".", 0o777)
    def direct(path):
        with open(path, "rb") as f: head = f.read(4096)
        block = aligned(4096); block[:] = head
        with_fd(path, os.O_WRONLY | os.O_DIRECT, lambda fd: (os.write(fd, block), None)[1])
    actions = {
        ">>": lambda path: subprocess.run(["sh", "-c", 'printf x >> "$1"', "sh", path], check=True) and None,
        "dd": lambda path: subprocess.run(["dd", "if=/dev/zero", "of=" + path, "bs=1", "count=1", "conv=notrunc", "oflag=append", "status=none"], check=True) and None,
        "O_DIRECT": direct,
        "read and write": lambda path: with_fd(path, os.O_RDWR, lambda fd: (os.pwrite(fd, os.pread(fd, 1, 0), 0), None)[1]),
        "fallocate": lambda path: with_fd(path, os.O_RDWR, lambda fd: fallocate(fd, 0, 0, os.stat(path).st_size + 1)),
        "truncate": lambda path: os.truncate(path, os.stat(path).st_size + 1),
        "copy_file_range": lambda path: with_fd(path, os.O_RDWR, lambda fd: with_fd("original", os.O_RDONLY, lambda source: (os.copy_file_range(source, fd, 5), None)[1])),
    }
    shutil.copy("/usr/bin/id", "original")
    def runs_as(path): return subprocess.run(["./" + path, "-u"], capture_output=True, text=True).stdout.strip()
    def cached(path): return subprocess.run(["stat", "--cached=always", "-c", "%a", path], capture_output=True, text=True).stdout.strip()
    for owner in [0, 1000]:
        for name, action in actions.items():
            path = f"{owner} {name}"
            shutil.copy("original", path); os.chown(path, owner, owner); os.chmod(path, 0o6777)
            def user():
                show(path + " before", (runs_as(path), cached(path)))
                action(path)
                show(path + " after", (runs_as(path), cached(path)))
            as_user(1001, 1001, user)
  `,
  { shows: ["0 >> before: ('0', '6777')", "0 >> after: ('1001', '777')"] },
);

lab.same(
  "file capabilities end with each change of the content and of the owner",
  py`
    # struct vfs_cap_data, revision 2, effective: cap_net_raw.
    capability = bytes.fromhex("0100000200200000000000000000000000000000")
    os.chmod(".", 0o777); put("source", "hello")
    def has(path):
        try: return len(os.getxattr(path, "security.capability"))
        except OSError as error: return errno.errorcode[error.errno]
    actions = {
        "write": lambda path: with_fd(path, os.O_WRONLY, lambda fd: (os.write(fd, b"x"), None)[1]),
        "append": lambda path: with_fd(path, os.O_WRONLY | os.O_APPEND, lambda fd: (os.write(fd, b"x"), None)[1]),
        "direct write": lambda path: with_fd(path, os.O_WRONLY | os.O_DIRECT, lambda fd: (os.write(fd, aligned(4096)), None)[1]),
        "truncate": lambda path: os.truncate(path, 1),
        "O_TRUNC": lambda path: with_fd(path, os.O_WRONLY | os.O_TRUNC, lambda fd: None),
        "fallocate": lambda path: with_fd(path, os.O_RDWR, lambda fd: fallocate(fd, 0, 0, 10)),
        "copy_file_range": lambda path: with_fd(path, os.O_RDWR, lambda fd: with_fd("source", os.O_RDONLY, lambda source: (os.copy_file_range(source, fd, 5), None)[1])),
        "read": lambda path: get(path) and None,
        "utime": lambda path: os.utime(path),
    }
    for uid in [0, 1000]:
        for name, action in actions.items():
            path = f"{uid} {name}"
            put(path, "content"); os.chown(path, 1000, 1000); os.chmod(path, 0o777); os.setxattr(path, "security.capability", capability)
            def user():
                show(path + " before", has(path)); do(path, action, path); show(path + " after", has(path))
            as_user(uid, uid, user)
    put("chown", "x"); os.setxattr("chown", "security.capability", capability); os.chown("chown", 1000, 1000); show("chown", has("chown"))
    fd = os.open("held", os.O_RDWR | os.O_CREAT); os.write(fd, b"x"); os.setxattr("held", "security.capability", capability); show("held before", has("held")); os.write(fd, b"y"); show("held after", has("held")); os.close(fd)
  `,
  { shows: ["1000 write before: 20", "1000 write after: ENODATA"] },
);
