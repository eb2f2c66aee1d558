/** Signals while a call waits for the node: EINTR or success, nothing half done, and processes that can be killed. */
import { expect, test } from "bun:test";
import { PosixLab, py } from "./support/posix.ts";

const lab = new PosixLab();

/** Calls that return EINTR instead of being tried again, as C programs see them. */
const RAW = py`
  signal.signal(signal.SIGALRM, lambda *_: None)
  def raw_read(fd, length, offset):
      memory = aligned(length)
      address = ctypes.addressof(ctypes.c_char.from_buffer(memory.obj))
      return check(libc.pread(fd, ctypes.c_void_p(address), ctypes.c_size_t(length), ctypes.c_int64(offset))), bytes(memory)
  def quick(label, seconds, function, *args):
      begin = time.monotonic(); do(label, function, *args); took = time.monotonic() - begin
      if took > seconds: show(label, f"took {took:.1f} s")
`;

test("a read that waits for a frozen node returns EINTR, and all is well when the node goes on", async () => {
  await lab.python(lab.mount.path, `put("big", pattern(9_000_000))`);
  await lab.remount(); // nothing in memory
  const lines = await lab.python(
    lab.mount.path,
    py`
      ${RAW.replaceAll("\n", "\n      ")}
      handles = {"O_RDWR": os.open("big", os.O_RDWR), "O_DIRECT": os.open("big", os.O_RDONLY | os.O_DIRECT)}
      os.kill(${lab.node.pid}, signal.SIGSTOP)
      try:
          for name, fd in handles.items():
              for offset in [0, 5 << 20]:
                  signal.setitimer(signal.ITIMER_REAL, 0.3); quick(f"{name} at {offset >> 20} MiB", 2.5, raw_read, fd, 4096, offset)
      finally:
          os.kill(${lab.node.pid}, signal.SIGCONT)
      data = pattern(9_000_000)
      for name, fd in handles.items():
          for offset in [0, 5 << 20]: show(f"{name} then", raw_read(fd, 4096, offset) == (4096, data[offset:offset + 4096]))
      os.pwrite(handles["O_RDWR"], b"written", 100); os.fsync(handles["O_RDWR"]); show("write", os.pread(handles["O_RDWR"], 7, 100))
      put("new", "x"); show("new", get("new")); show("whole", digest(get("big")[200:]) == digest(data[200:]))
    `,
  );
  expect(lines).toEqual([
    "O_RDWR at 0 MiB: EINTR",
    "O_RDWR at 5 MiB: EINTR",
    "O_DIRECT at 0 MiB: EINTR",
    "O_DIRECT at 5 MiB: EINTR",
    ...["O_RDWR", "O_DIRECT"].flatMap((name) => [`${name} then: True`, `${name} then: True`]),
    "write: b'written'",
    "new: b'x'",
    "whole: True",
  ]);
}, 60_000);

test("changes that wait for a frozen node are made whole or not at all", async () => {
  const lines = await lab.python(
    lab.mount.path,
    py`
      ${RAW.replaceAll("\n", "\n      ")}
      os.mkdir("whole"); os.chdir("whole")
      for name in ["unlinked", "renamed", "linked", "attributes", "xattr", "cut"]: put(name, "content")
      os.mkdir("removed"); dirty = os.open("dirty", os.O_RDWR | os.O_CREAT, 0o644); os.write(dirty, pattern(100_000))
      c = os.fsencode
      calls = {
          "mkdir": (lambda: libc.mkdir(c("made"), 0o755), lambda: os.path.isdir("made")),
          "create": (lambda: libc.open(c("created"), os.O_CREAT | os.O_WRONLY, 0o644), lambda: os.path.exists("created")),
          "symlink": (lambda: libc.symlink(c("t"), c("sym")), lambda: os.path.lexists("sym")),
          "unlink": (lambda: libc.unlink(c("unlinked")), lambda: not os.path.exists("unlinked")),
          "rename": (lambda: libc.rename(c("renamed"), c("renamed to")), lambda: os.path.exists("renamed to") and not os.path.exists("renamed")),
          "link": (lambda: libc.link(c("linked"), c("link")), lambda: os.stat("linked").st_nlink == 2 and os.path.exists("link")),
          "rmdir": (lambda: libc.rmdir(c("removed")), lambda: not os.path.exists("removed")),
          "chmod": (lambda: libc.chmod(c("attributes"), 0o600), lambda: os.stat("attributes").st_mode & 0o777 == 0o600),
          "setxattr": (lambda: libc.setxattr(c("xattr"), b"user.x", b"v", 1, 0), lambda: "user.x" in os.listxattr("xattr")),
          "truncate": (lambda: libc.truncate(c("cut"), ctypes.c_int64(3)), lambda: get("cut") == b"con"),
          "fsync": (lambda: libc.fsync(dirty), lambda: digest(get("dirty")) == digest(pattern(100_000))),
      }
      for name, (call, done) in calls.items():
          os.kill(${lab.node.pid}, signal.SIGSTOP)
          sys.stdout.flush(); thaw = os.fork()
          if thaw == 0: time.sleep(0.5); os.kill(${lab.node.pid}, signal.SIGCONT); os._exit(0)
          signal.setitimer(signal.ITIMER_REAL, 0.15)
          try: check(call()); outcome = "ok"
          except OSError as error: outcome = name_of(error)
          os.waitpid(thaw, 0)
          if outcome == "ok": show(name, "right" if done() else "said ok and was not done")
          elif outcome == "EINTR": show(name, "right" if name == "fsync" or not done() else "said EINTR and was done")
          else: show(name, outcome)
      os.close(dirty)
    `,
  );
  expect(lines).toEqual(
    "mkdir create symlink unlink rename link rmdir chmod setxattr truncate fsync".split(" ").map((name) => `${name}: right`),
  );
}, 60_000);

test("a process that waits for a frozen node can be killed: at once while it reads, else when the node goes on", async () => {
  await lab.python(lab.mount.path, `put("cold", pattern(9_000_000)); put("f")`);
  await lab.remount();
  const lines = await lab.python(
    lab.mount.path,
    py`
      def begin(function):
          reader, writer = os.pipe(); sys.stdout.flush(); child = os.fork()
          if child == 0:
              os.write(writer, b"1"); function(); os._exit(0)
          os.read(reader, 1); time.sleep(0.3); os.kill(child, signal.SIGKILL); return child
      def ended(child):
          deadline = time.monotonic() + 5
          while time.monotonic() < deadline:
              if os.waitpid(child, os.WNOHANG)[0] != 0: return "killed"
              time.sleep(0.01)
          return "still there"
      fd = os.open("cold", os.O_RDWR); page = os.open("cold", os.O_RDONLY)
      os.kill(${lab.node.pid}, signal.SIGSTOP)
      try:
          show("read", ended(begin(lambda: os.pread(fd, 4096, 4_500_000))))
          show("buffered read", ended(begin(lambda: os.pread(page, 4096, 8_500_000))))
          changing = begin(lambda: os.mkdir("killed")), begin(lambda: os.unlink("f"))
      finally: os.kill(${lab.node.pid}, signal.SIGCONT)
      show("changes", [ended(child) for child in changing])
      show("after", digest(os.pread(fd, 10**7, 0)) == digest(pattern(9_000_000))); put("after", "x"); show("after", get("after"))
    `,
  );
  expect(lines).toEqual(["read: killed", "buffered read: killed", "changes: ['killed', 'killed']", "after: True", "after: b'x'"]);
}, 60_000);

lab.prints(
  "a storm of signals: every call succeeds or says EINTR, and the tree is what the results say",
  py`
    signal.signal(signal.SIGALRM, lambda *_: None)
    data = pattern(2_000_000); put("f", data); fd = os.open("f", os.O_RDWR | os.O_DIRECT)
    memory = mmap.mmap(-1, 65536); address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    expected, wrong, done, interrupted = set(), [], 0, 0
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.0007)
    end = time.monotonic() + 3; i = 0
    while time.monotonic() < end:
        i += 1; name = f"n{i}"
        try: check(libc.mkdir(os.fsencode(name), 0o755)); expected.add(name)
        except OSError as error:
            if error.errno != errno.EINTR: wrong.append(name_of(error))
        offset = (i * 65536) % 1_900_544 // 4096 * 4096
        count = libc.pread(fd, ctypes.c_void_p(address), ctypes.c_size_t(65536), ctypes.c_int64(offset))
        if count < 0:
            if ctypes.get_errno() != errno.EINTR: wrong.append(ctypes.get_errno())
            interrupted += 1
        elif memory[:count] != data[offset:offset + count]: wrong.append(f"content at {offset}")
        else: done += 1
    signal.setitimer(signal.ITIMER_REAL, 0)
    show("wrong", wrong); show("tree", set(os.listdir(".")) - {"f"} == expected); show("some were done", done > 20)
  `,
  ["wrong: []", "tree: True", "some were done: True"],
);
