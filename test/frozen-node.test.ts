/** The node does not answer: what a client holds under a lease it serves, what it must ask for waits. */
import { expect, test } from "bun:test";
import { PosixLab, py } from "./support/posix.ts";

const lab = new PosixLab();

test("what is held under a lease is read without the node, until the lease is over; an O_DIRECT read asks the node", async () => {
  const lines = await lab.python(
    lab.mount.path,
    py`
      signal.signal(signal.SIGALRM, lambda *_: None)
      data = pattern(1_000_000); put("f", data); fd = os.open("f", os.O_RDWR); direct = os.open("f", os.O_RDONLY | os.O_DIRECT)
      memory = aligned(4096); address = ctypes.addressof(ctypes.c_char.from_buffer(memory.obj))
      def read(fd, patience):
          signal.setitimer(signal.ITIMER_REAL, patience)
          try:
              check(libc.pread(fd, ctypes.c_void_p(address), ctypes.c_size_t(4096), ctypes.c_int64(0)))
              return bytes(memory) == data[:4096]
          finally: signal.setitimer(signal.ITIMER_REAL, 0)
      read(fd, 5); read(direct, 5); st("f")
      os.kill(${lab.node.pid}, signal.SIGSTOP)
      try:
          do("under the lease", read, fd, 2); show("attributes", st("f")); do("O_DIRECT", read, direct, 1)
          time.sleep(5); do("after the lease", read, fd, 1)
      finally: os.kill(${lab.node.pid}, signal.SIGCONT)
      do("when it answers again", read, fd, 10); do("O_DIRECT", read, direct, 10)
    `,
  );
  expect(lines).toEqual([
    "under the lease: True",
    "attributes: file, 0644, nlink 1, 0:0, size 1000000",
    "O_DIRECT: EINTR",
    "after the lease: EINTR",
    "when it answers again: True",
    "O_DIRECT: True",
  ]);
}, 60_000);
