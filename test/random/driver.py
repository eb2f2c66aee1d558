"""Runs file operations for the randomized suites, one JSON request a line on stdin, one JSON answer a line on stdout.

`model` runs each operation in two folders (a mount's and a local one) and compares what comes out; `compare` compares two trees;
the rest are single calls. A process of its own, because a call on a mount may block, and because one Python call costs microseconds
where a spawned program costs milliseconds.
"""
import ctypes
import errno
import hashlib
import json
import mmap
import os
import stat
import sys
import time

libc = ctypes.CDLL(None, use_errno=True)
libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
libc.renameat2.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint]

# Times that tests set lie before this; a file that was changed since has a later one. So times compare without being equal.
SET_TIME_MAX = 1_000_000_000
# What takes longer is worth a line: some wait for a lease, most likely.
SLOW_S = 0.5


def check(result):
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def renameat2(dir_fd, old, new, flags):
    check(libc.renameat2(dir_fd, os.fsencode(old), dir_fd, os.fsencode(new), flags))


def pattern(seed, length):
    """`length` bytes without a zero among them, so that a hole is never taken for data."""
    unit = bytes((seed * 31 + i * 7) % 255 + 1 for i in range(251))
    return (unit * (length // 251 + 1))[:length]


def digest(data):
    """Short content as it is, long as a hash."""
    if len(data) <= 16:
        return data.hex()
    return f"{len(data)}:{hashlib.sha1(data).hexdigest()[:12]}"


def shown_time(nsec):
    return nsec if nsec < SET_TIME_MAX * 1_000_000_000 else "recent"


def shown_stat(s, deleted=False):
    """What must be the same on both sides. A folder's size is the filesystem's own business."""
    kind = stat.S_IFMT(s.st_mode)
    size = -1 if stat.S_ISDIR(kind) else s.st_size
    links = 0 if deleted else s.st_nlink
    return [oct(s.st_mode), links, s.st_uid, s.st_gid, size, s.st_rdev, shown_time(s.st_mtime_ns), "ctime" if s.st_ctime_ns > s.st_mtime_ns - 10**7 else "old ctime"]


class Side:
    """One of the folders, with its open files."""

    def __init__(self, root, is_local):
        self.root = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
        self.is_local = is_local
        self.slots = {}
        self.maps = {}

    def close(self):
        for mapped in self.maps.values():
            mapped.close()
        self.maps.clear()
        for fd in self.slots.values():
            os.close(fd)
        self.slots.clear()
        os.close(self.root)

    def fd(self, slot):
        found = self.slots.get(slot)
        if found is None:
            raise OSError(errno.EBADF, "slot")
        return found

    def path_fd(self, path, flags=os.O_RDONLY):
        return os.open(path, flags, dir_fd=self.root)

    # ---- names ----

    def op_open(self, slot, path, flags, mode):
        """`slot` null: closed at once."""
        if self.is_local:
            # A local filesystem wants aligned buffers for it, and it changes no result.
            flags &= ~os.O_DIRECT
        fd = os.open(path, flags, mode, dir_fd=self.root)
        if slot is None:
            os.close(fd)
            return shown_stat(os.stat(path, dir_fd=self.root))
        old = self.slots.pop(slot, None)
        self.slots[slot] = fd
        if old is not None:
            os.close(old)
        return shown_stat(os.fstat(fd))

    def op_close(self, slot):
        fd = self.fd(slot)
        del self.slots[slot]
        os.close(fd)

    def op_mkdir(self, path, mode):
        os.mkdir(path, mode, dir_fd=self.root)
        return self.op_stat(path)

    def op_rmdir(self, path):
        os.rmdir(path, dir_fd=self.root)

    def op_unlink(self, path):
        os.unlink(path, dir_fd=self.root)

    def op_rename(self, old, new, flags):
        renameat2(self.root, old, new, flags)

    def op_link(self, old, new):
        os.link(old, new, src_dir_fd=self.root, dst_dir_fd=self.root, follow_symlinks=False)
        return self.op_stat(new)

    def op_symlink(self, target, path):
        os.symlink(target, path, dir_fd=self.root)
        return self.op_stat(path)

    def op_readlink(self, path):
        return os.readlink(path, dir_fd=self.root)

    def op_mknod(self, path, mode, device):
        os.mknod(path, mode, device, dir_fd=self.root)
        return self.op_stat(path)

    def op_readdir(self, path):
        fd = self.path_fd(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            with os.scandir(fd) as entries:
                return sorted([e.name, e.is_dir(follow_symlinks=False), e.is_symlink()] for e in entries)
        finally:
            os.close(fd)

    def op_access(self, path, mode):
        return os.access(path, mode, dir_fd=self.root, effective_ids=True)

    # ---- attributes ----

    def op_stat(self, path):
        return shown_stat(os.stat(path, dir_fd=self.root, follow_symlinks=False))

    def op_fstat(self, slot):
        return shown_stat(os.fstat(self.fd(slot)))

    def op_chmod(self, path, mode):
        os.chmod(path, mode, dir_fd=self.root)
        return self.op_stat(path)

    def op_fchmod(self, slot, mode):
        os.fchmod(self.fd(slot), mode)
        return self.op_fstat(slot)

    def op_chown(self, path, uid, gid):
        os.chown(path, uid, gid, dir_fd=self.root, follow_symlinks=False)
        return self.op_stat(path)

    def op_utimens(self, path, atime, mtime):
        os.utime(path, ns=(atime, mtime), dir_fd=self.root, follow_symlinks=False)
        after = os.stat(path, dir_fd=self.root, follow_symlinks=False)
        return [after.st_atime_ns, after.st_mtime_ns]

    def op_futimens(self, slot, atime, mtime):
        os.utime(self.fd(slot), ns=(atime, mtime))
        after = os.fstat(self.fd(slot))
        return [after.st_atime_ns, after.st_mtime_ns]

    def with_fd(self, path, call):
        # O_NONBLOCK: a fifo would wait for its other end.
        fd = self.path_fd(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            return call(fd)
        finally:
            os.close(fd)

    def op_setxattr(self, path, name, length, seed, flags):
        self.with_fd(path, lambda fd: os.setxattr(fd, name, pattern(seed, length), flags))
        return self.op_listxattr(path)

    def op_getxattr(self, path, name):
        return self.with_fd(path, lambda fd: digest(os.getxattr(fd, name)))

    def op_listxattr(self, path):
        return self.with_fd(path, lambda fd: sorted(os.listxattr(fd)))

    def op_removexattr(self, path, name):
        return self.with_fd(path, lambda fd: os.removexattr(fd, name))

    # ---- content ----

    def op_pwrite(self, slot, offset, length, seed):
        return os.pwrite(self.fd(slot), pattern(seed, length), offset)

    def op_pread(self, slot, offset, length):
        return digest(os.pread(self.fd(slot), length, offset))

    def op_truncate(self, path, size):
        os.truncate(path if path.startswith("/") else f"/proc/self/fd/{self.root}/{path}", size)
        return self.op_stat(path)

    def op_ftruncate(self, slot, size):
        os.ftruncate(self.fd(slot), size)
        return self.op_fstat(slot)

    def op_fallocate(self, slot, mode, offset, length):
        check(libc.fallocate(self.fd(slot), mode, offset, length))
        return self.op_fstat(slot)

    def op_copy(self, source, source_offset, target, target_offset, length):
        return os.copy_file_range(self.fd(source), self.fd(target), length, source_offset, target_offset)

    def op_map(self, path):
        """Maps a file as it is now, for op_mapped; it has to have a size."""
        old = self.maps.pop(path, None)
        if old is not None:
            old.close()
        fd = self.path_fd(path)
        try:
            self.maps[path] = mmap.mmap(fd, 0, mmap.MAP_SHARED, mmap.PROT_READ)
        except ValueError:
            raise OSError(errno.EINVAL, "empty file")
        finally:
            os.close(fd)
        return self.op_mapped(path, 0, 1 << 30)

    def op_mapped(self, path, offset, length):
        """What the mapping shows, as far as the file reaches now (beyond that comes SIGBUS)."""
        mapped = self.maps.get(path)
        if mapped is None:
            raise OSError(errno.EBADF, "map")
        # The mapping's own file may have been replaced: its size is what counts.
        size = min(len(mapped), mapped.size())
        return digest(mapped[min(offset, size):min(offset + length, size)])

    def op_holes(self, path):
        """Where SEEK_DATA and SEEK_HOLE may say what they like: everything but zeros has to be called data, and the end is a hole."""
        return self.with_fd(path, self.holes)

    @staticmethod
    def holes(fd):
        size = os.fstat(fd).st_size
        position = 0
        while position < size:
            try:
                data = os.lseek(fd, position, os.SEEK_DATA)
            except OSError as error:
                if error.errno != errno.ENXIO:
                    raise
                data = size
            for at in range(position, data, 1 << 20):
                hole = os.pread(fd, min(1 << 20, data - at), at)
                if hole.count(0) != len(hole):
                    return f"bytes in [{position}, {data}) are called a hole"
            if data >= size:
                break
            position = os.lseek(fd, data, os.SEEK_HOLE)
            if position <= data or position > size:
                return f"SEEK_HOLE from {data} gives {position} of {size}"
        return "consistent"

    def op_put(self, path, flags, offset, length, seed):
        """Opens, writes, and closes again."""
        fd = os.open(path, flags, 0o644, dir_fd=self.root)
        try:
            os.pwrite(fd, pattern(seed, length), offset)
        finally:
            os.close(fd)
        return self.op_stat(path)

    def op_fsync(self, slot):
        os.fsync(self.fd(slot))

    def op_content(self, path):
        def read(fd):
            digester = hashlib.sha1()
            while block := os.read(fd, 1 << 20):
                digester.update(block)
            return digester.hexdigest()[:12]
        return self.with_fd(path, read)

    def run(self, op):
        """`as`: the user that does it, when not root."""
        user = op.get("as", 0)
        try:
            if user:
                os.setegid(user)
                os.seteuid(user)
            try:
                return ["ok", getattr(self, "op_" + op["do"])(*op["args"])]
            finally:
                if user:
                    os.seteuid(0)
                    os.setegid(0)
        except OSError as error:
            return [errno.errorcode.get(error.errno, str(error.errno))]


class Pair:
    """Two mounts of one namespace as one side: each operation goes through the one that its `via` names."""

    def __init__(self, roots):
        self.sides = [Side(root, False) for root in roots]

    def run(self, op):
        return self.sides[op["via"]].run(op)

    def close(self):
        for side in self.sides:
            side.close()


def tree(root):
    """Every path under root with what it is."""
    found = {}

    def visit(fd, path):
        with os.scandir(fd) as listing:
            names = sorted(e.name for e in listing)
        for name in names:
            full = f"{path}{name}"
            s = os.stat(name, dir_fd=fd, follow_symlinks=False)
            one = shown_stat(s)
            if stat.S_ISLNK(s.st_mode):
                one.append(os.readlink(name, dir_fd=fd))
            elif stat.S_ISREG(s.st_mode) or stat.S_ISDIR(s.st_mode):
                child = os.open(name, os.O_RDONLY, dir_fd=fd)
                try:
                    one.append([[n, digest(os.getxattr(child, n))] for n in sorted(os.listxattr(child))])
                    if stat.S_ISREG(s.st_mode):
                        digester = hashlib.sha1()
                        while block := os.read(child, 1 << 20):
                            digester.update(block)
                        one.append(digester.hexdigest()[:12])
                    else:
                        visit(child, full + "/")
                finally:
                    os.close(child)
            found[full] = one

    top = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        found["."] = shown_stat(os.fstat(top))
        visit(top, "")
    finally:
        os.close(top)
    return found


def compare(left, right):
    one, other = tree(left), tree(right)
    return [[path, one.get(path), other.get(path)] for path in sorted(set(one) | set(other)) if one.get(path) != other.get(path)]


class Driver:
    def __init__(self):
        self.sides = []

    def do_model(self, roots, ops, keep=False):
        """Runs ops in both roots, the second of them local; null, or the first that differed."""
        if not self.sides:
            self.sides = [Pair(root) if isinstance(root, list) else Side(root, i == 1) for i, root in enumerate(roots)]
        failure = None
        for i, op in enumerate(ops):
            begin = time.monotonic()
            results = [side.run(op) for side in self.sides]
            if time.monotonic() - begin > SLOW_S:
                print(f"driver: {op} took {time.monotonic() - begin:.1f} s", file=sys.stderr, flush=True)
            if results[0] != results[1]:
                failure = {"index": i, "op": op, "results": results}
                break
        if not keep or failure:
            self.do_close()
        return failure

    def do_close(self):
        for side in self.sides:
            side.close()
        self.sides = []

    def do_compare(self, left, right):
        return compare(left, right)

    def do_mkdir(self, paths):
        for path in paths:
            os.makedirs(path, exist_ok=True)


def main():
    os.umask(0o022)
    driver = Driver()
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = {"result": getattr(driver, "do_" + request["do"])(*request["args"])}
        except Exception as error:  # the test reports it
            answer = {"error": f"{type(error).__name__}: {error}"}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


main()
