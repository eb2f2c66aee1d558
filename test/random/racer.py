"""One of several processes that work on the same files through different mounts; requests as driver.py takes them.

What a call returns is what it may claim: only operations that the mount acknowledged.
"""
import errno
import json
import mmap
import os
import random
import stat
import sys
import time

LINE_BYTES = 64


def record(who, number, length):
    """A line that shows damage: its head names it, and every byte after it is the same letter."""
    head = f"{who}:{number}:{length}:"
    return (head + chr(97 + number % 26) * (length - len(head) - 1) + "\n").encode()


def block(who, number, length):
    return (f"{who}:{number}:".encode() * (length // 4))[:length]


def names_of(error):
    return errno.errorcode.get(error.errno, str(error.errno))


class Racer:
    def __init__(self):
        self.held = []

    # ---- single steps ----

    def do_write(self, path, text, how, length):
        """`how`: close, or fsync (the descriptor stays open)."""
        fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
        data = (text.encode() * (length // len(text) + 1))[:length]
        os.ftruncate(fd, length)
        done = 0
        while done < length:
            done += os.pwrite(fd, data[done:], done)
        if how == "fsync":
            os.fsync(fd)
            self.held.append(fd)
        else:
            os.close(fd)

    def do_hold(self, path):
        """Opens, reads and maps a file, and keeps all that."""
        fd = os.open(path, os.O_RDONLY)
        size = os.fstat(fd).st_size
        if size:
            mapped = mmap.mmap(fd, size, mmap.MAP_SHARED, mmap.PROT_READ)
            sum(mapped[::4096])
            self.held.append(mapped)
        while os.read(fd, 1 << 20):
            pass
        self.held.append(fd)

    def do_release(self):
        for one in self.held:
            if isinstance(one, int):
                os.close(one)
            else:
                one.close()
        self.held.clear()

    def do_expect(self, path, text, length):
        """What an open() that starts now sees, by read and by a new mapping; null, or what is wrong."""
        want = (text.encode() * (length // len(text) + 1))[:length]
        fd = os.open(path, os.O_RDONLY)
        try:
            size = os.fstat(fd).st_size
            if size != length:
                return f"size {size}, expected {length}"
            got = b"".join(iter(lambda: os.read(fd, 1 << 20), b""))
            if got != want:
                return f"read: {len(got)} bytes, the first wrong one at {first_difference(got, want)}"
            if length:
                with mmap.mmap(fd, length, mmap.MAP_SHARED, mmap.PROT_READ) as mapped:
                    if mapped[:] != want:
                        return f"mmap: the first wrong byte at {first_difference(mapped[:], want)}"
        finally:
            os.close(fd)
        return None

    def do_call(self, name, *args):
        """A function of os; its result, or its errno's name."""
        try:
            result = getattr(os, name)(*args)
            if isinstance(result, int) and name == "open":
                os.close(result)
                result = None
            return ["ok", list(result) if isinstance(result, tuple) else result]
        except OSError as error:
            return [names_of(error)]

    def do_wait_for(self, path, exists, patience_s):
        """Seconds until stat says so."""
        begin = time.monotonic()
        while os.path.lexists(path) != exists:
            if time.monotonic() - begin > patience_s:
                return None
            time.sleep(0.01)
        return time.monotonic() - begin

    # ---- races ----

    def do_append(self, path, who, count, seed):
        """Appends `count` records; returns how many were acknowledged."""
        chance = random.Random(seed)
        fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        for number in range(count):
            length = chance.choice([LINE_BYTES, LINE_BYTES, 500, 5000, 40_000])
            data = record(who, number, length)
            written = os.write(fd, data)
            if written != len(data):
                raise RuntimeError(f"append: {written} of {len(data)} bytes")
            dice = chance.random()
            if dice < 0.05:
                os.fsync(fd)
            elif dice < 0.15:
                os.close(fd)
                fd = os.open(path, os.O_WRONLY | os.O_APPEND)
        os.close(fd)
        return count

    def do_check_appended(self, path, counts):
        """Every record of every appender, whole, once, and in the appender's order; null, or what is wrong."""
        seen = {who: 0 for who in counts}
        with open(path, "rb") as file:
            for line in file:
                try:
                    who, number, length, rest = line.decode().split(":")
                except ValueError:
                    return f"torn record at {file.tell() - len(line)}: {line[:60]!r}"
                if line != record(who, int(number), int(length)):
                    return f"damaged record near {who[:40]!r}:{number}"
                if int(number) != seen[who]:
                    return f"{who}: record {number} where {seen[who]} was due"
                seen[who] += 1
        return None if seen == counts else f"expected {counts}, found {seen}"

    def do_write_blocks(self, path, who, mine, of, blocks, length, seed):
        """Writes blocks number `mine`, `mine + of`, ... of a file that others write too."""
        chance = random.Random(seed)
        numbers = list(range(mine, blocks, of))
        chance.shuffle(numbers)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
        reading = os.open(path, os.O_RDONLY)
        written = []
        for number in numbers:
            data = block(who, number, length)
            if os.pwrite(fd, data, number * length) != length:
                raise RuntimeError("short write")
            written.append(number)
            # What this mount acknowledged it shows, whatever the others do meanwhile.
            own = chance.choice(written)
            if os.pread(reading, length, own * length) != block(who, own, length):
                raise RuntimeError(f"block {own} is not what {who} wrote on this mount")
            dice = chance.random()
            if dice < 0.03:
                os.fsync(fd)
            elif dice < 0.06:
                os.close(fd)
                fd = os.open(path, os.O_WRONLY)
        os.close(fd)
        os.close(reading)
        return len(numbers)

    def do_check_blocks(self, path, whos, blocks, length):
        wrong = []
        with open(path, "rb") as file:
            for number in range(blocks):
                data = file.read(length)
                if data != block(whos[number % len(whos)], number, length):
                    wrong.append([number, whos[number % len(whos)], repr(data[:20])])
        return wrong

    def do_claim(self, folder, who, names, seed):
        """Tries to be the one who makes each name; returns those where it was."""
        chance = random.Random(seed)
        won = []
        source = os.path.join(folder, f"source-{who}")
        os.close(os.open(source, os.O_CREAT | os.O_WRONLY, 0o644))
        for name in names:
            path = os.path.join(folder, name)
            try:
                kind = name.split("-")[0]
                if kind == "file":
                    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
                elif kind == "folder":
                    os.mkdir(path)
                elif kind == "symlink":
                    os.symlink(who, path)
                else:
                    os.link(source, path)
                won.append(name)
            except FileExistsError:
                pass
            if chance.random() < 0.1:
                time.sleep(0.001)
        return won

    def do_move_folders(self, root, count, seed, until_s=None):
        """Renames folders into each other, at random; returns how many renames were done."""
        chance = random.Random(seed)
        done = 0
        end = None if until_s is None else time.monotonic() + until_s
        for _ in range(count):
            if end is not None and time.monotonic() > end:
                break
            folders = [path for path, _, _ in os.walk(root)]
            source, target = chance.choice(folders), chance.choice(folders)
            if source == root:
                continue
            try:
                os.rename(source, os.path.join(target, os.path.basename(source)))
                done += 1
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.EINVAL, errno.ENOTEMPTY, errno.EEXIST, errno.ELOOP, errno.EBUSY, errno.ESTALE):
                    raise
        return done

    def do_churn(self, folder, count, seed, until_s=None):
        """Creates, links, renames, removes a few names that others use too; returns how many succeeded."""
        chance = random.Random(seed)
        done = 0
        expected = (errno.ENOENT, errno.EEXIST, errno.ENOTEMPTY, errno.EISDIR, errno.ENOTDIR, errno.EPERM, errno.EINVAL, errno.ESTALE)
        end = None if until_s is None else time.monotonic() + until_s
        for _ in range(count):
            if end is not None and time.monotonic() > end:
                break
            one, other = (os.path.join(folder, chance.choice(["", "sub/"]) + chance.choice(["a", "aa", "a-", "b", "c"])) for _ in "12")
            try:
                dice = chance.randrange(7)
                if dice == 0:
                    fd = os.open(one, os.O_CREAT | os.O_WRONLY, 0o644)
                    os.write(fd, one.encode())
                    os.close(fd)
                elif dice == 1:
                    os.unlink(one)
                elif dice == 2:
                    os.rename(one, other)
                elif dice == 3:
                    os.link(one, other)
                elif dice == 4:
                    os.mkdir(one)
                elif dice == 5:
                    os.rmdir(one)
                else:
                    os.chmod(one, chance.choice([0o600, 0o644, 0o755]))
                done += 1
            except OSError as error:
                if error.errno not in expected:
                    raise
        return done

    # ---- checks ----

    def do_tree(self, root):
        """Every path with mode, nlink, size and inode; nlink of folders and files is checked against what is found."""
        found = {}
        links = {}
        wrong = []

        def visit(path, depth):
            if depth > 200:
                raise RuntimeError(f"a loop: {path}")
            own = os.lstat(path)
            folders = 0
            for name in sorted(os.listdir(path)):
                child = os.path.join(path, name)
                s = os.lstat(child)
                found[os.path.relpath(child, root)] = [oct(s.st_mode), s.st_nlink, s.st_size if not stat.S_ISDIR(s.st_mode) else -1, s.st_ino]
                if stat.S_ISDIR(s.st_mode):
                    folders += 1
                    visit(child, depth + 1)
                else:
                    links.setdefault(s.st_ino, []).append([child, s.st_nlink])
            if own.st_nlink != folders + 2:
                wrong.append(f"{path}: nlink {own.st_nlink}, {folders} folders in it")

        visit(root, 0)
        for paths in links.values():
            for path, nlink in paths:
                if nlink != len(paths):
                    wrong.append(f"{path}: nlink {nlink}, {len(paths)} names")
        return {"entries": found, "wrong": wrong}


def first_difference(one, other):
    for at in range(min(len(one), len(other))):
        if one[at] != other[at]:
            return at
    return min(len(one), len(other))


def main():
    racer = Racer()
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = {"result": getattr(racer, "do_" + request["do"])(*request["args"])}
        except Exception as error:  # the test reports it
            answer = {"error": f"{type(error).__name__}: {error}"}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


main()
