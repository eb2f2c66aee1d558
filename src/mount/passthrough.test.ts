/** Files that have a local image, in a real mount: the kernel reads the image by itself, and nothing goes wrong when others come along. */
import { type Pointer, read } from "bun:ffi";
import { expect, test } from "bun:test";
import * as fs from "node:fs";
import { Mounted, sys } from "./testing/mounted.ts";

const BYTES = 3 * 1024 * 1024 + 5;
const { O_RDONLY, O_RDWR, O_WRONLY, O_TRUNC, O_DIRECT, O_APPEND } = fs.constants;

/** A mount with a file "file" that has an image, whose bytes differ from what the filesystem would answer: it shows who has read. */
class Staged implements AsyncDisposable {
  readonly mount: Mounted;
  readonly image: string;
  readonly fromImage = Buffer.alloc(BYTES, "i");
  readonly fromServer = Buffer.alloc(BYTES, "s");

  private constructor(mount: Mounted) {
    this.mount = mount;
    this.image = `${mount.path}.image`;
  }

  static async start(options: Record<string, unknown> = { passthrough: true }): Promise<Staged> {
    const staged = new Staged(await Mounted.start(options));
    fs.writeFileSync(staged.mount.at("file"), staged.fromServer);
    fs.writeFileSync(staged.image, staged.fromImage);
    await staged.give(staged.image);
    return staged;
  }

  async give(path: string | null): Promise<void> {
    await this.mount.ask({ do: "image", name: "file", path });
  }

  get path(): string {
    return this.mount.at("file");
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.mount[Symbol.asyncDispose]();
    fs.rmSync(this.image, { force: true });
  }
}

/** The letter that the first and the last byte of a descriptor's file have. */
function letterOf(fd: number): string {
  const two = Buffer.alloc(2);
  fs.readSync(fd, two, 0, 1, 0);
  fs.readSync(fd, two, 1, 1, BYTES - 1);
  return two.toString();
}

/** Opens, reads the first and the last byte, closes. */
function letterIn(path: string, flags = O_RDONLY): string {
  const fd = fs.openSync(path, flags);
  try {
    return letterOf(fd);
  } finally {
    fs.closeSync(fd);
  }
}

const PROT_READ = 1;
const PROT_WRITE = 2;
const MAP_SHARED = 1;
const MAP_PRIVATE = 2;
const ENODEV = -19;

/** The first byte of a mapping. */
function letterAt(address: number): string {
  return String.fromCharCode(read.u8(address as Pointer, 0));
}

test("the kernel reads the image, and asks nobody", async () => {
  await using staged = await Staged.start();
  const before = await staged.mount.calls("read");
  expect(fs.readFileSync(staged.path).equals(staged.fromImage)).toBe(true);
  expect(await staged.mount.calls("read")).toBe(before);
  const fd = fs.openSync(staged.path, O_RDONLY);
  staged.mount.child.kill("SIGSTOP");
  expect(letterOf(fd)).toBe("ii");
  staged.mount.child.kill("SIGCONT");
  fs.closeSync(fd);
});

test("a file that was open before it got its image stays as it is until it is closed", async () => {
  await using staged = await Staged.start();
  await staged.give(null);
  const first = fs.openSync(staged.path, O_RDONLY);
  expect(letterOf(first)).toBe("ss");
  await staged.give(staged.image);
  const second = fs.openSync(staged.path, O_RDONLY);
  expect([letterOf(first), letterOf(second)]).toEqual(["ss", "ss"]);
  fs.closeSync(first);
  expect(letterIn(staged.path)).toBe("ss");
  fs.closeSync(second);
  expect(letterIn(staged.path)).toBe("ii");
});

for (const [how, flags] of [
  ["O_WRONLY", O_WRONLY],
  ["O_RDWR", O_RDWR],
  ["O_RDWR|O_APPEND", O_RDWR | O_APPEND],
  ["O_RDWR|O_DIRECT", O_RDWR | O_DIRECT],
] as const) {
  test(`a writer (${how}) beside a reader of the image: the reader keeps what it had, all others see what is written`, async () => {
    await using staged = await Staged.start();
    const reader = fs.openSync(staged.path, O_RDONLY);
    const writer = fs.openSync(staged.path, flags);
    expect(letterOf(reader)).toBe("ii");
    expect(fs.writeSync(writer, Buffer.alloc(4096, "w"), 0, 4096, 0)).toBe(4096);
    expect(letterOf(reader)).toBe("ii");
    expect(letterIn(staged.path)[0]).toBe(how.includes("APPEND") ? "s" : "w");
    fs.closeSync(writer);
    const later = fs.openSync(staged.path, O_RDWR);
    fs.writeSync(later, "x", 0);
    expect(letterIn(staged.path)).toBe("xs");
    expect(letterOf(reader)).toBe("ii");
    fs.closeSync(later);
    fs.closeSync(reader);
    expect(letterIn(staged.path)).toBe("xs");
    expect(fs.readFileSync(staged.image).equals(staged.fromImage)).toBe(true);
  });
}

test("truncating beside a reader of the image, by open and by name", async () => {
  await using staged = await Staged.start();
  const reader = fs.openSync(staged.path, O_RDONLY);
  fs.closeSync(fs.openSync(staged.path, O_WRONLY | O_TRUNC));
  expect(fs.statSync(staged.path).size).toBe(0);
  expect(fs.readFileSync(staged.path).length).toBe(0);
  fs.linkSync(staged.path, staged.mount.at("second"));
  fs.truncateSync(staged.mount.at("second"), 10);
  expect(fs.statSync(staged.path).size).toBe(10);
  expect(fs.fstatSync(reader).size).toBe(10);
  expect(fs.readFileSync(staged.path).equals(Buffer.alloc(10))).toBe(true);
  expect(letterOf(reader)).toBe("ii");
  fs.closeSync(reader);
});

test("a new image while the old one is being read", async () => {
  await using staged = await Staged.start();
  const old = fs.openSync(staged.path, O_RDONLY);
  fs.writeFileSync(`${staged.image}2`, Buffer.alloc(BYTES, "n"));
  await staged.give(`${staged.image}2`);
  const young = fs.openSync(staged.path, O_RDONLY);
  const again = fs.openSync(staged.path, O_RDONLY);
  expect([letterOf(old), letterOf(young), letterOf(again)]).toEqual(["ii", "nn", "nn"]);
  await staged.give(null);
  expect(letterIn(staged.path)).toBe("ss");
  expect([letterOf(old), letterOf(young)]).toEqual(["ii", "nn"]);
  for (const fd of [old, young, again]) fs.closeSync(fd);
  fs.rmSync(`${staged.image}2`);
});

test("O_DIRECT goes past the image, whoever comes first", async () => {
  await using staged = await Staged.start();
  const direct = (fd: number): string => {
    const page = Buffer.alloc(4096);
    fs.readSync(fd, page, 0, 4096, 0);
    return page.toString("latin1", 0, 1);
  };
  const first = fs.openSync(staged.path, O_RDONLY | O_DIRECT);
  expect(direct(first)).toBe("s");
  expect(letterIn(staged.path)).toBe("ss");
  fs.closeSync(first);
  const plain = fs.openSync(staged.path, O_RDONLY);
  const second = fs.openSync(staged.path, O_RDONLY | O_DIRECT);
  expect([letterOf(plain), direct(second)]).toEqual(["ii", "s"]);
  fs.closeSync(plain);
  expect(direct(second)).toBe("s");
  fs.closeSync(second);
});

test("mappings of an image, and none that could be written through", async () => {
  await using staged = await Staged.start();
  const fd = fs.openSync(staged.path, O_RDONLY);
  const mappings = [
    sys.mmap(fd, BYTES, PROT_READ, MAP_PRIVATE),
    sys.mmap(fd, BYTES, PROT_READ, MAP_SHARED),
    sys.mmap(fd, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE),
  ];
  for (const mapping of mappings) expect(letterAt(mapping)).toBe("i");
  expect(sys.mmap(fd, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED)).toBe(-13);
  const writer = fs.openSync(staged.path, O_RDWR);
  expect(sys.mmap(writer, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED)).toBe(ENODEV);
  expect(sys.mmap(writer, BYTES, PROT_READ, MAP_SHARED)).toBe(ENODEV);
  const own = sys.mmap(writer, BYTES, PROT_READ, MAP_PRIVATE);
  expect(letterAt(own)).toBe("s");
  sys.munmap(own, BYTES);
  fs.closeSync(writer);
  fs.closeSync(fd);
  // A mapping lives longer than the descriptor, and the image must outlive both.
  expect((await staged.mount.ask({ do: "unused" })).unused).toBe(false);
  for (const mapping of mappings) expect(letterAt(mapping)).toBe("i");
  for (const mapping of mappings) sys.munmap(mapping, BYTES);
  expect((await staged.mount.ask({ do: "unused" })).unused).toBe(true);
});

test("a program that is an image runs, and so does one that was replaced beside it", async () => {
  await using staged = await Staged.start();
  const program = fs.readFileSync("/bin/true");
  fs.writeFileSync(staged.mount.at("program"), program, { mode: 0o755 });
  await staged.mount.ask({ do: "image", name: "program", path: "/bin/true" });
  const run = async () => await Bun.spawn([staged.mount.at("program")]).exited;
  expect(await run()).toBe(0);
  const reader = fs.openSync(staged.mount.at("program"), O_RDONLY);
  expect(await run()).toBe(0);
  fs.writeFileSync(staged.mount.at("program"), fs.readFileSync("/bin/false"));
  expect(await run()).toBe(1);
  fs.closeSync(reader);
});

test("a descriptor that is opened again through /proc", async () => {
  await using staged = await Staged.start();
  const reader = fs.openSync(staged.path, O_RDONLY);
  const again = `/proc/self/fd/${reader}`;
  expect(letterIn(again)).toBe("ii");
  const writer = fs.openSync(staged.path, O_RDWR);
  fs.writeSync(writer, "w", 0);
  // There is no name by which the kernel could find the new node: the reader's own snapshot.
  expect(letterIn(again)).toBe("ii");
  expect(() => fs.openSync(again, O_RDWR)).toThrow("EBUSY");
  expect(letterIn(`/proc/self/fd/${writer}`)).toBe("ws");
  fs.closeSync(reader);
  fs.closeSync(writer);
  expect(letterIn(staged.path)).toBe("ws");
});

test("what one sees of a file that was moved: number, links, attributes", async () => {
  await using staged = await Staged.start();
  const second = staged.mount.at("second");
  fs.linkSync(staged.path, second);
  const { ino } = fs.statSync(staged.path);
  const reader = fs.openSync(second, O_RDONLY);
  fs.appendFileSync(staged.path, "more");
  for (const stat of [fs.statSync(staged.path), fs.statSync(second), fs.fstatSync(reader)]) {
    expect([stat.ino, stat.nlink, stat.size]).toEqual([ino, 2, BYTES + 4]);
  }
  fs.chmodSync(second, 0o600);
  expect(fs.statSync(staged.path).mode & 0o777).toBe(0o600);
  expect(fs.readdirSync(staged.mount.path).sort()).toEqual(["file", "second"]);
  fs.renameSync(second, staged.mount.at("third"));
  fs.linkSync(staged.mount.at("third"), second);
  expect(fs.readFileSync(second).length).toBe(BYTES + 4);
  fs.unlinkSync(staged.path);
  expect(letterOf(reader)).toBe("ii");
  fs.closeSync(reader);
});

test("changes of another mount are seen by the number that the kernel uses now", async () => {
  await using staged = await Staged.start();
  const reader = fs.openSync(staged.path, O_RDONLY);
  fs.appendFileSync(staged.path, "more");
  expect(letterIn(staged.path)).toBe("ss");
  await staged.mount.ask({ do: "change", name: "file", content: "changed", notify: true });
  expect(fs.readFileSync(staged.path, "utf8")).toBe("changed");
  fs.closeSync(reader);
});

test("thousands of images open at once cost no descriptors, and none is kept after the last close", async () => {
  await using staged = await Staged.start();
  const count = 3_000;
  const descriptorsOf = () => fs.readdirSync(`/proc/${staged.mount.child.pid}/fd`).length;
  const before = descriptorsOf();
  for (let i = 0; i < count; i++) {
    fs.writeFileSync(staged.mount.at(`f${i}`), `server ${i}`);
    await staged.mount.ask({ do: "image", name: `f${i}`, path: staged.image });
  }
  const open: number[] = [];
  for (let i = 0; i < count; i++) open.push(fs.openSync(staged.mount.at(`f${i}`), O_RDONLY));
  expect(descriptorsOf()).toBeLessThan(before + 50);
  for (let i = 0; i < count; i += 97) expect(letterOf(open[i] ?? -1)).toBe("ii");
  expect((await staged.mount.ask({ do: "unused" })).unused).toBe(false);
  for (const fd of open) fs.closeSync(fd);
  for (let i = 0; i < 5_000; i++) fs.closeSync(fs.openSync(staged.path, O_RDONLY));
  // A backing id that was not given back would still keep the image open.
  expect((await staged.mount.ask({ do: "unused" })).unused).toBe(true);
  expect(descriptorsOf()).toBeLessThanOrEqual(before + 2);
}, 60_000);

test("readers and writers of all kinds at once: none fails", async () => {
  await using staged = await Staged.start();
  const kinds = [O_RDONLY, O_RDONLY, O_RDONLY, O_RDONLY | O_DIRECT, O_RDWR, O_WRONLY, O_WRONLY | O_APPEND];
  const stop = performance.now() + 3_000;
  const program = async (): Promise<number> => {
    const page = Buffer.alloc(4096);
    const open: number[] = [];
    let opened = 0;
    while (performance.now() < stop) {
      const flags = kinds[Math.floor(Math.random() * kinds.length)] ?? O_RDONLY;
      const fd = await fs.promises.open(staged.path, flags).then((handle) => handle);
      opened++;
      if ((flags & 3) !== O_WRONLY) await fd.read(page, 0, 4096, 4096 * Math.floor(Math.random() * 700));
      else await fd.write(page.fill("w"), 0, 4096, 0);
      if (Math.random() < 0.3) await staged.give(staged.image);
      await fd.close();
    }
    for (const fd of open) fs.closeSync(fd);
    return opened;
  };
  const counts = await Promise.all(Array.from({ length: 8 }, program));
  expect(Math.min(...counts)).toBeGreaterThan(10);
}, 30_000);

for (const [why, options] of [
  ["with the kernel's writeback cache", { passthrough: true, writebackCache: true }],
  ["when nobody wants it", {}],
] as const) {
  test(`without passthrough (${why}) the same file is read in the ordinary way`, async () => {
    await using staged = await Staged.start(options);
    const reader = fs.openSync(staged.path, O_RDONLY);
    expect(letterOf(reader)).toBe("ss");
    fs.closeSync(reader);
    expect((await staged.mount.ask({ do: "unused" })).unused).toBe(true);
  });
}

test("an image that can't be opened, or lies where the kernel doesn't read, costs no more than its speed", async () => {
  await using staged = await Staged.start();
  await staged.give(`${staged.image}.absent`);
  expect(letterIn(staged.path)).toBe("ss");
  await staged.give(staged.image);
  expect(letterIn(staged.path)).toBe("ii");
  // A filesystem that is stacked on another.
  const stack = `${staged.mount.path}.stack`;
  for (const name of ["lower", "upper", "work", "merged"]) fs.mkdirSync(`${stack}/${name}`, { recursive: true });
  const overlay = [
    "-t",
    "overlay",
    "overlay",
    "-o",
    `lowerdir=${stack}/lower,upperdir=${stack}/upper,workdir=${stack}/work`,
    `${stack}/merged`,
  ];
  expect(await Bun.spawn(["mount", ...overlay]).exited).toBe(0);
  try {
    fs.writeFileSync(`${stack}/merged/image`, staged.fromImage);
    await staged.give(`${stack}/merged/image`);
    expect(letterIn(staged.path)).toBe("ss");
    expect(letterIn(staged.path)).toBe("ss");
  } finally {
    await Bun.spawn(["umount", `${stack}/merged`]).exited;
    fs.rmSync(stack, { recursive: true });
  }
});

test("without the privilege that the kernel wants, as in a container, files are read in the ordinary way", async () => {
  // Root of a user namespace may mount, and see nothing else of this machine's root.
  const path = fs.mkdtempSync("/tmp/kiseki-mount-");
  await using mount = await Mounted.start({ passthrough: true }, path, {}, ["unshare", "--user", "--map-root-user", "--mount"]);
  const inside = `/proc/${mount.child.pid}/root${path}/file`;
  fs.writeFileSync(inside, "from the server");
  fs.writeFileSync(`${path}.image`, "from the image.");
  await mount.ask({ do: "image", name: "file", path: `${path}.image` });
  for (let i = 0; i < 3; i++) expect(fs.readFileSync(inside, "utf8")).toBe("from the server");
  expect((await mount.ask({ do: "unused" })).unused).toBe(true);
  mount.child.kill("SIGKILL");
  expect(await mount.log).toContain("passthrough");
  fs.rmSync(`${path}.image`);
});
