/** Programs that read, map, write and replace staged files at once, while they are staged anew and released: no call fails, no byte is wrong. */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { join } from "node:path";
import { cleanUp, runOk, TestMount, TestNode } from "./support/harness.ts";
import { controlOf, poolOf, stage } from "./support/staging.ts";

setDefaultTimeout(90_000);

const SECONDS = 6;
const FILES = 4;
const BYTES = 1_000_000;

let node: TestNode;
beforeAll(async () => {
  node = await TestNode.start();
});
afterAll(cleanUp);

/** Arguments: the folder, a number, seconds. Files have no zeros: who sees one has read what is no file's content. Prints what it did. */
const PROGRAM = `
import ctypes, os, random, sys, time
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
base, number, until = sys.argv[1], int(sys.argv[2]), time.time() + float(sys.argv[3])
chance, held, done = random.Random(number), [], 0
letter = lambda: bytes([97 + chance.randrange(26)])
def check(data): assert b"\\0" not in data, "zeros"
def keep(fd, share):
    if chance.random() < share: held.append(fd)
    else: os.close(fd)
while time.time() < until:
    path, what, done = f"{base}/f{chance.randrange(${FILES})}", chance.random(), done + 1
    if what < 0.55:
        fd = os.open(path, os.O_RDONLY | (os.O_DIRECT if what < 0.05 else 0))
        if what >= 0.05: check(os.pread(fd, 100000, chance.randrange(${BYTES} // 100000) * 100000))
        if what > 0.5:
            at = libc.mmap(None, 65536, 1, chance.choice([1, 2]), fd, 0)
            assert at != 2**64 - 1, os.strerror(ctypes.get_errno())
            check(ctypes.string_at(at, 65536))
            libc.munmap(at, 65536)
        keep(fd, 0.3)
    elif what < 0.8:
        fd = os.open(path, chance.choice([os.O_RDWR, os.O_WRONLY, os.O_RDWR | os.O_APPEND]))
        if what < 0.75: os.pwrite(fd, letter() * 4096, 4096 * chance.randrange(200))
        keep(fd, 0.2)
    elif what < 0.85: os.chmod(path, chance.choice([0o644, 0o600]))
    elif what < 0.9: os.stat(path)
    elif what < 0.92 and number == 0:
        with open(path + ".new", "wb") as file: file.write(letter() * ${BYTES})
        os.rename(path + ".new", path)
    elif held: os.close(held.pop(chance.randrange(len(held))))
    if len(held) > 30: os.close(held.pop(0))
print(done)
`;

test("readers and writers of all kinds, beside staging and releasing", async () => {
  await using mount = await TestMount.mount(node);
  const folder = join(mount.path, "set");
  const fill = `mkdir "$1"; for i in $(seq 0 ${FILES - 1}); do head -c ${BYTES} /dev/zero | tr '\\0' a > "$1/f$i"; done`;
  await runOk("sh", ["-ec", fill, "sh", folder]);
  await stage(poolOf(mount), "/set");
  let isOver = false;
  const staging = (async () => {
    for (let round = 1; !isOver; round++) {
      if (round % 5 === 0) await controlOf(poolOf(mount)).release({ path: "/set" });
      // A file that is replaced during the walk can end it.
      await stage(poolOf(mount), "/set").catch(() => {});
      await Bun.sleep(200);
    }
  })();
  const programs = [0, 1, 2, 3].map((number) => runOk("python3", ["-c", PROGRAM, folder, String(number), String(SECONDS)]));
  try {
    for (const done of await Promise.all(programs)) expect(Number(done)).toBeGreaterThan(50);
  } finally {
    isOver = true;
    await staging;
  }
  await mount.unmount();
});
