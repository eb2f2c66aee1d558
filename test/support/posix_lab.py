"""What the snippets of test/*.test.ts are made of: system calls by their names, each result or errno printed as one line.

A snippet runs with the working directory in an empty folder, once on a mount and once on a local filesystem; what it prints must be
the same. So it prints nothing that may differ (inode numbers, device numbers, times themselves, sizes of folders).
"""
import ctypes
import errno
import fcntl
import hashlib
import mmap
import os
import signal
import socket
import stat
import struct
import sys
import time

libc = ctypes.CDLL(None, use_errno=True)
AT_FDCWD = -100
RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_WHITEOUT = 1, 2, 4
KEEP_SIZE, PUNCH_HOLE, COLLAPSE_RANGE, ZERO_RANGE, INSERT_RANGE = 1, 2, 8, 16, 32
UTIME_NOW, UTIME_OMIT = (1 << 30) - 1, (1 << 30) - 2
O = os  # O.O_CREAT
EIB8 = 2**63 - 1


def name_of(error):
    return errno.errorcode.get(error.errno, f"errno {error.errno}")


def show(label, value=""):
    print(f"{label}: {value}", flush=True)


def do(label, function, *args, **keywords):
    """Prints what the call returned, or its errno. Returns the result, or None."""
    try:
        result = function(*args, **keywords)
    except OSError as error:
        show(label, name_of(error))
        return None
    show(label, "ok" if result is None else repr(result))
    return result


def ok(label, function, *args, **keywords):
    """As do(), for results that are not to be compared: prints only ok, or the errno."""
    try:
        result = function(*args, **keywords)
    except OSError as error:
        show(label, name_of(error))
        return None
    show(label, "ok")
    return result


# ---- files in short ----

def put(path, data=b"", mode=0o644):
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    try:
        view = memoryview(data if isinstance(data, (bytes, bytearray)) else data.encode())
        while len(view) > 0:
            view = view[os.write(fd, view):]
    finally:
        os.close(fd)


def get(path):
    fd = os.open(path, os.O_RDONLY)
    try:
        parts = []
        while part := os.read(fd, 1 << 20):
            parts.append(part)
        return b"".join(parts)
    finally:
        os.close(fd)


def digest(data):
    return f"{len(data)} bytes, sha256 {hashlib.sha256(data).hexdigest()[:16]}"


def pattern(length, seed=1):
    """Bytes that differ at every offset and for every seed."""
    out = bytearray()
    block = hashlib.sha256(str(seed).encode()).digest()
    while len(out) < length:
        block = hashlib.sha256(block).digest()
        out += block * 8
        block = hashlib.sha256(block + b"next").digest()
    return bytes(out[:length])


def with_fd(path, flags, function, mode=0o644):
    fd = os.open(path, flags, mode)
    try:
        return function(fd)
    finally:
        os.close(fd)


KINDS = {stat.S_IFREG: "file", stat.S_IFDIR: "folder", stat.S_IFLNK: "symlink", stat.S_IFIFO: "fifo", stat.S_IFSOCK: "socket",
         stat.S_IFCHR: "char device", stat.S_IFBLK: "block device"}


def st(path, follow=False):
    """What stat says, less what differs between filesystems."""
    s = os.stat(path, follow_symlinks=follow) if not isinstance(path, int) else os.fstat(path)
    kind = KINDS[stat.S_IFMT(s.st_mode)]
    parts = [kind, f"{stat.S_IMODE(s.st_mode):04o}", f"nlink {s.st_nlink}", f"{s.st_uid}:{s.st_gid}"]
    if kind != "folder":
        parts.append(f"size {s.st_size}")
    if kind.endswith("device"):
        parts.append(f"rdev {os.major(s.st_rdev)}:{os.minor(s.st_rdev)}")
    return ", ".join(parts)


def show_stat(path):
    do(f"stat {path if isinstance(path, str) else 'fd' if isinstance(path, int) else path!r}", st, path)


def moved(label, paths, function, *args, **keywords):
    """Runs a call and prints which times of each path it moved (atime is left out: reading may or may not move it)."""
    paths = paths if isinstance(paths, list) else [paths]
    before = [times(path) for path in paths]
    time.sleep(0.02)
    try:
        function(*args, **keywords)
        outcome = "ok"
    except OSError as error:
        outcome = name_of(error)
    for path, old in zip(paths, before):
        try:
            new = times(path)
            what = "mtime " * (new[0] > old[0]) + "ctime " * (new[1] > old[1]) + "BACKWARDS " * (new[0] < old[0] or new[1] < old[1])
        except OSError as error:
            what = name_of(error)
        outcome += f"; {path if isinstance(path, str) else 'fd'}: {what.strip() or 'unmoved'}"
    show(label, outcome)


def times(path):
    s = os.fstat(path) if isinstance(path, int) else os.lstat(path)
    return (s.st_mtime_ns, s.st_ctime_ns)


def listing(path="."):
    return sorted(os.listdir(path))


def tree(path="."):
    """Prints everything below a folder."""
    for name in sorted(os.listdir(os.fsencode(path))):
        full = os.path.join(os.fsencode(path), name)
        line = st(full)
        if line.startswith("symlink"):
            line += f" -> {os.readlink(full)!r}"
        elif line.startswith("file"):
            line += f", {digest(get(full))}"
        show(f"  {os.path.relpath(full)!r}", line)
        if line.startswith("folder"):
            tree(full)


# ---- system calls that os lacks ----

def check(result):
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def renameat2(old, new, flags):
    check(libc.renameat2(AT_FDCWD, os.fsencode(old), AT_FDCWD, os.fsencode(new), ctypes.c_uint(flags)))


def fallocate(fd, mode, offset, length):
    check(libc.fallocate(fd, mode, ctypes.c_int64(offset), ctypes.c_int64(length)))


class timespec(ctypes.Structure):
    _fields_ = [("sec", ctypes.c_int64), ("nsec", ctypes.c_int64)]


def utimensat(path, atime, mtime, flags=0):
    """atime and mtime: (seconds, nanoseconds)."""
    pair = (timespec * 2)(timespec(*atime), timespec(*mtime))
    check(libc.utimensat(AT_FDCWD, os.fsencode(path), pair, flags))


def futimens(fd, atime, mtime):
    pair = (timespec * 2)(timespec(*atime), timespec(*mtime))
    check(libc.futimens(fd, pair))


def mknod(path, mode, device=0):
    os.mknod(path, mode, device)


def extents(fd):
    """Data ranges as SEEK_DATA and SEEK_HOLE tell them."""
    found, at, size = [], 0, os.fstat(fd).st_size
    while at < size:
        try:
            start = os.lseek(fd, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                break
            raise
        at = os.lseek(fd, start, os.SEEK_HOLE)
        if at <= start:
            raise SystemExit(f"SEEK_HOLE of {start} is {at}, in a file of {size}")
        found.append((start, at))
    return found


def blocks(path):
    """st_blocks in KiB."""
    s = os.fstat(path) if isinstance(path, int) else os.lstat(path)
    return s.st_blocks // 2


def aligned(length, fill=b""):
    """Memory for O_DIRECT."""
    memory = mmap.mmap(-1, max(length, 4096))
    memory[:len(fill)] = fill
    return memoryview(memory)[:length]


# ---- others ----

NOBODY = 65534


def as_user(uid, gid, function, groups=()):
    """Runs a function in a child with these ids (and no capabilities, unless uid is 0)."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.setgroups(list(groups))
            os.setresgid(gid, gid, gid)
            os.setresuid(uid, uid, uid)
            function()
            status = 0
        except BaseException as error:  # noqa: the child must never return into the caller
            print(f"child: {error!r}", file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    _, status = os.waitpid(child, 0)
    if status != 0:
        raise SystemExit(f"the child ended with {status}")


def fork_do(function):
    """The same with this process's ids."""
    as_user(os.getuid(), os.getgid(), function, os.getgroups())
