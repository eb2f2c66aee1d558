"""Works on a mount until it fails, and keeps a journal, on a local disk, of what the mount acknowledged; and checks a mount against it."""
import errno
import json
import os
import random
import sys
import time

SIZES = [0, 10, 5_000, 33_000, 100_000, 300_000]
RECORD_BYTES = 200


def content(who, number):
    chance = random.Random(f"{who}/{number}")
    size = chance.choice(SIZES) if chance.random() < 0.97 else 5_000_000
    # The head tells which version a file has.
    return f"{who}/{number}\n".encode() + chance.randbytes(size)


def record(who, number):
    return f"{who}:{number}".encode().ljust(RECORD_BYTES - 1, b".") + b"\n"


class Worker:
    """One writer's loop; every step is in the journal before (`begin`) and after (`done`)."""

    def __init__(self, root, who, journal, seed):
        self.who = who
        # By the current folder: a path would lead under the mount once that is gone.
        os.chdir(root)
        self.root = who
        self.journal = os.open(journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        self.chance = random.Random(seed)
        self.appended = 0

    def note(self, *what):
        os.write(self.journal, (json.dumps(what) + "\n").encode())

    def write(self, path, data, sync):
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        try:
            done = 0
            while done < len(data):
                done += os.write(fd, data[done:done + self.chance.choice([4096, 50_000, 1 << 20])])
            if sync:
                os.fsync(fd)
        finally:
            os.close(fd)

    def step(self, number):
        dice = self.chance.random()
        if dice < 0.3:
            name = f"file-{number}"
            sync = self.chance.random() < 0.5
            self.note("begin", "file", number)
            self.write(os.path.join(self.root, name), content(self.who, number), sync)
            self.note("done", "file", number, "fsync" if sync else "close")
        elif dice < 0.6:
            target = f"current-{self.chance.randrange(2)}"
            temporary = os.path.join(self.root, f"temporary-{target}")
            self.write(temporary, content(self.who, number), True)
            self.note("begin", target, number)
            os.rename(temporary, os.path.join(self.root, target))
            self.note("done", target, number, "rename")
        elif dice < 0.8:
            fd = os.open(os.path.join(self.root, "log"), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            try:
                for _ in range(self.chance.randrange(1, 40)):
                    os.write(fd, record(self.who, self.appended))
                    self.appended += 1
                os.fsync(fd)
            finally:
                os.close(fd)
            self.note("done", "log", self.appended, "fsync")
        elif dice < 0.9:
            # A folder that moves with what is in it.
            one, other = (os.path.join(self.root, f"folder-{number}{end}") for end in ("", "-moved"))
            os.mkdir(one)
            self.write(os.path.join(one, "in"), b"in", False)
            self.note("begin", "move", number)
            os.rename(one, other)
            self.note("done", "move", number, "rename")
        else:
            path = os.path.join(self.root, f"gone-{number}")
            self.write(path, b"gone", False)
            os.link(path, path + "-link")
            self.note("begin", "unlink", number)
            os.unlink(path)
            self.note("done", "unlink", number, "unlink")


def do_ready():
    return True


def do_work(root, who, journal, seed, first, seconds):
    """Returns where it stopped, and the errno's name that stopped it, if one did."""
    end = time.monotonic() + seconds
    number = first
    try:
        worker = Worker(root, who, journal, seed)
        os.makedirs(worker.root, exist_ok=True)
        log = os.path.join(worker.root, "log")
        if os.path.exists(log):
            # What a crash left of a write that was not acknowledged goes, so that record numbers stay in order.
            worker.appended = os.path.getsize(log) // RECORD_BYTES
            os.truncate(log, worker.appended * RECORD_BYTES)
        while time.monotonic() < end:
            worker.step(number)
            number += 1
    except OSError as error:
        return {"next": number + 1, "error": str(error)}
    finally:
        os.chdir("/")
    return {"next": number, "error": None}


def do_write_large(path, seed, mib, chunk_mib):
    """Writes random bytes and fsyncs at the end; the first call that failed, with its errno's name, or null."""
    chance = random.Random(seed)
    step = "open"
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
        try:
            for _ in range(0, mib, chunk_mib):
                step = "write"
                data = chance.randbytes(chunk_mib << 20)
                if os.write(fd, data) != len(data):
                    return "short write"
            step = "fsync"
            os.fsync(fd)
            step = "close"
        finally:
            os.close(fd)
    except OSError as error:
        return f"{step} {errno.errorcode.get(error.errno, error.errno)}"
    return None


def do_check_large(path, seed, mib, chunk_mib):
    chance = random.Random(seed)
    with open(path, "rb") as file:
        for at in range(0, mib, chunk_mib):
            if file.read(chunk_mib << 20) != chance.randbytes(chunk_mib << 20):
                return f"wrong bytes in MiB {at} to {at + chunk_mib}"
        return None if file.read(1) == b"" else "too long"


def do_append_log(path, who, seconds):
    """Appends records, each with an fsync, and goes on after failures. A record whose write failed is written again."""
    end = time.monotonic() + seconds
    synced, syncs, failures = 0, 0, set()
    step = "open"

    def failed(error):
        failures.add(f"{step} {errno.errorcode.get(error.errno, error.errno)}")

    try:
        fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        # What a crash left half written goes.
        number = os.fstat(fd).st_size // RECORD_BYTES
        os.ftruncate(fd, number * RECORD_BYTES)
    except OSError as error:
        failed(error)
        return {"synced": 0, "syncs": 0, "failures": sorted(failures)}
    while time.monotonic() < end:
        try:
            step = "write"
            os.write(fd, record(who, number))
            number += 1
            step = "fsync"
            os.fsync(fd)
            synced = number
            syncs += 1
        except OSError as error:
            failed(error)
            time.sleep(0.01)
    try:
        step = "close"
        os.close(fd)
    except OSError as error:
        failed(error)
    return {"synced": synced, "syncs": syncs, "failures": sorted(failures)}


def do_check_log(path, who, synced):
    with open(path, "rb") as file:
        data = file.read()
    for number in range(max(synced, len(data) // RECORD_BYTES)):
        found = data[number * RECORD_BYTES:(number + 1) * RECORD_BYTES]
        if found != record(who, number):
            return f"record {number} is {found[:30]!r}; {synced} records were synced"
    return None


def do_verify(root, who, journal):
    """What the mount acknowledged and does not have."""
    wrong = []
    counts = {"fsync": 0, "close": 0, "rename": 0, "unlink": 0}
    begun, done = {}, {}
    files, moves, unlinks = {}, {}, {}
    appended = 0
    with open(journal) as lines:
        for line in lines:
            event, what, number, *how = json.loads(line)
            if event == "done":
                counts[how[0]] += 1
            if what == "log":
                appended = number
            elif what == "file":
                files[number] = event
            elif what == "move":
                moves[number] = event
            elif what == "unlink":
                unlinks[number] = event
            elif event == "begin":
                begun[what] = number
            else:
                done[what] = number
    base = os.path.join(root, who)

    def read(name):
        with open(os.path.join(base, name), "rb") as file:
            return file.read()

    for number, event in files.items():
        if event == "done" and read(f"file-{number}") != content(who, number):
            wrong.append(f"file-{number} is not what was written")
    for name in begun:
        if name not in done and not os.path.exists(os.path.join(base, name)):
            continue
        data = read(name)
        version = int(data.split(b"\n", 1)[0].split(b"/")[1])
        if data != content(who, version):
            wrong.append(f"{name} is torn")
        if version not in (done.get(name), begun[name]):
            wrong.append(f"{name} is version {version}, renamed were {done.get(name)} and perhaps {begun[name]}")
    if appended:
        data = read("log")
        whole = [data[at:at + RECORD_BYTES] for at in range(0, appended * RECORD_BYTES, RECORD_BYTES)]
        for number, one in enumerate(whole):
            if one != record(who, number):
                wrong.append(f"log record {number} is {one[:30]!r}")
                break
    for number, event in moves.items():
        there = [os.path.exists(os.path.join(base, f"folder-{number}{end}", "in")) for end in ("", "-moved")]
        if there not in ([[False, True]] if event == "done" else [[False, True], [True, False]]):
            wrong.append(f"folder-{number}: {there} after {event}")
    for number, event in unlinks.items():
        path = os.path.join(base, f"gone-{number}")
        links = os.stat(path + "-link").st_nlink
        if os.path.exists(path) != (links == 2) or (event == "done" and links != 1):
            wrong.append(f"gone-{number}: {links} links after {event}")
    return {"wrong": wrong, "counts": counts}


def main():
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = {"result": globals()["do_" + request["do"]](*request["args"])}
        except Exception as error:  # the test reports it
            answer = {"error": f"{type(error).__name__}: {error}"}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


main()
