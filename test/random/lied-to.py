"""Looks at a mount whose node lies: one JSON request a line on stdin, one JSON answer a line on stdout. An errno is an answer, too."""
import base64
import errno
import json
import os
import sys


def attempt(work):
    try:
        return {"value": work()}
    except OSError as error:
        return {"errno": errno.errorcode.get(error.errno, str(error.errno))}


def read(path):
    with open(path, "rb") as file:
        return base64.b64encode(file.read()).decode()


def slice_of(path, offset, length):
    with open(path, "rb") as file:
        file.seek(offset)
        return base64.b64encode(file.read(length)).decode()


def write(path, text):
    with open(path, "wb") as file:
        file.write(base64.b64decode(text))
        os.fsync(file.fileno())


def xattrs(path):
    return {name: base64.b64encode(os.getxattr(path, name)).decode() for name in os.listxattr(path)}


CALLS = {
    "read": read,
    "slice": slice_of,
    "write": write,
    "list": lambda path: sorted(os.listdir(path)),
    "readlink": os.readlink,
    "xattrs": xattrs,
    "kind": lambda path: oct(os.lstat(path).st_mode & 0o170000),
    "unlink": os.unlink,
    "rename": os.rename,
    "mkdir": os.mkdir,
}

for line in sys.stdin:
    request = json.loads(line)
    print(json.dumps({"result": attempt(lambda: CALLS[request["do"]](*request["args"]))}), flush=True)
