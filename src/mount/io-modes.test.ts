import { expect, test } from "bun:test";
import fc from "fast-check";
import type { BackingFile } from "../cache/images/backing-file.ts";
import { FsError } from "../fs/posix/errno.ts";
import { type Opened, OpenFlag } from "../fs/posix/vfs.ts";
import { type BackingIds, IoModes } from "./io-modes.ts";
import { NodeNumbers } from "./node-numbers.ts";

class FakeImage implements BackingFile {
  readonly bytes = 1;
  users = 0;

  acquire(): number {
    this.users++;
    return -1;
  }

  release(): void {
    this.users--;
  }
}

/** The kernel's side: ids, and its rule (fs/fuse/iomode.c) by which it fails an open with EIO. */
class FakeKernel implements BackingIds {
  readonly ids = new Map<number, BackingFile>();
  /** Per node: the backing id in use, handles with it, handles that cache. */
  readonly nodes = new Map<string, { id: number; reading: number; caching: number }>();
  #nextId = 1;
  works = true;

  open(file: BackingFile): number {
    if (!this.works) return 0;
    file.acquire();
    this.ids.set(this.#nextId, file);
    return this.#nextId++;
  }

  close(file: BackingFile, id: number): void {
    expect(this.ids.get(id)).toBe(file);
    this.ids.delete(id);
    file.release();
  }

  /** Returns what the kernel does when the handle is closed. */
  openNode(node: string, id: number, directIo: boolean): () => void {
    const state = this.nodes.get(node) ?? { id: 0, reading: 0, caching: 0 };
    this.nodes.set(node, state);
    if (state.reading > 0 && id !== state.id) throw new Error("EIO: the backing file of an open node must stay the same");
    if (id > 0) {
      if (!this.ids.has(id)) throw new Error("EIO: no such backing id");
      if (state.caching > 0) throw new Error("EIO: the node is cached");
      state.id = id;
      state.reading++;
      return () => state.reading--;
    }
    if (directIo) return () => {};
    state.caching++;
    return () => state.caching--;
  }
}

function setup() {
  const kernel = new FakeKernel();
  const nodes = new NodeNumbers();
  const clock = { nowMs: 0 };
  const outdated: string[] = [];
  const modes = new IoModes(
    kernel,
    nodes,
    async (ino, edition) => {
      outdated.push(`${ino}.${edition}`);
    },
    () => clock.nowMs,
  );
  let nextHandle = 1;
  const answer = (backing: BackingFile | null, directIo = false): Opened => ({
    handle: nextHandle++,
    keepCache: true,
    directIo,
    noFlush: true,
    backing,
  });
  /** Opens as the kernel does: when it is refused it looks the name up again, once. */
  const open = (ino: number, flags: number, backing: BackingFile | null, { pid = 1, edition = nodes.edition(ino) } = {}) => {
    const directIo = (flags & OpenFlag.O_DIRECT) !== 0 || (flags & OpenFlag.O_ACCMODE) === OpenFlag.O_RDWR;
    for (let attempt = 0, by = edition; ; attempt++, by = nodes.edition(ino)) {
      try {
        const request = { ino, edition: by, flags, pid };
        const isStray = modes.isStray(request);
        const opened = answer(flags === OpenFlag.O_RDONLY ? backing : null, directIo);
        const id = modes.enter(request, isStray, opened);
        const closeNode = kernel.openNode(`${ino}.${by}`, id, opened.directIo);
        const close = () => {
          closeNode();
          modes.leave(ino, opened.handle);
        };
        return { id, edition: by, opened, close };
      } catch (error) {
        if (!(error instanceof FsError && error.code === "ESTALE") || attempt === 1) throw error;
      }
    }
  };
  return { kernel, nodes, modes, clock, outdated, open, answer };
}

const { O_RDONLY, O_RDWR, O_WRONLY, O_DIRECT } = OpenFlag;

test("opens of one image share its id, and the last close gives it back", () => {
  const { kernel, modes, open } = setup();
  const image = new FakeImage();
  const first = open(7, O_RDONLY, image);
  const second = open(7, O_RDONLY, image);
  expect([second.id, image.users, modes.readingCount]).toEqual([first.id, 1, 1]);
  expect(first.opened.keepCache).toBe(false);
  first.close();
  expect(image.users).toBe(1);
  second.close();
  expect([image.users, kernel.ids.size, modes.readingCount]).toEqual([0, 0, 0]);
});

test("the first open decides: who comes to an ordinary one follows it", () => {
  const { open } = setup();
  const image = new FakeImage();
  const ordinary = open(7, O_RDONLY, null);
  const reader = open(7, O_RDONLY, image);
  expect([ordinary.id, reader.id, image.users]).toEqual([0, 0, 0]);
  ordinary.close();
  reader.close();
  expect(open(7, O_RDONLY, image).id).toBeGreaterThan(0);
});

test("who can't follow an image gets a node of its own; the reader keeps the old one", () => {
  const { nodes, outdated, open } = setup();
  const image = new FakeImage();
  const reader = open(7, O_RDONLY, image);
  const writer = open(7, O_RDWR, null);
  expect([writer.id, writer.edition, nodes.edition(7), outdated]).toEqual([0, 1, 1, ["7.0"]]);
  const newer = new FakeImage();
  expect(open(7, O_RDONLY, newer).id).toBe(0);
  expect(image.users).toBe(1);
  reader.close();
  expect(image.users).toBe(0);
});

test("an old number leads to the new node; what has no other name gets what it came from", () => {
  const { nodes, open, modes, answer } = setup();
  const image = new FakeImage();
  const reader = open(7, O_RDONLY, image);
  const writer = open(7, O_WRONLY, null);
  expect(open(7, O_RDONLY, null, { edition: 0 }).edition).toBe(1);
  /** One attempt, without looking anything up. */
  const attempt = (flags: number, pid: number): number => {
    const request = { ino: 7, edition: 0, flags, pid };
    return modes.enter(request, modes.isStray(request), answer(null));
  };
  expect(() => attempt(O_RDONLY, 5)).toThrow("ESTALE");
  expect(attempt(O_RDONLY, 5)).toBe(reader.id);
  expect(() => attempt(O_RDWR, 5)).toThrow("ESTALE");
  expect(() => attempt(O_RDWR, 5)).toThrow("EBUSY");
  // The kernel can't tell threads of other containers apart: they are all 0.
  for (let i = 0; i < 3; i++) expect(() => attempt(O_RDONLY, 0)).toThrow("ESTALE");
  reader.close();
  writer.close();
  expect(nodes.edition(7)).toBe(1);
});

test("nobody is refused twice: an image waits while somebody comes back", () => {
  const { open, modes, clock, answer } = setup();
  const image = new FakeImage();
  const reader = open(7, O_RDONLY, image);
  expect(() => modes.isStray({ ino: 7, edition: 0, flags: O_RDWR, pid: 9 })).toThrow("ESTALE");
  expect(open(7, O_RDONLY, image, { pid: 2 }).id).toBe(0);
  const retry = { ino: 7, edition: 1, flags: O_RDWR, pid: 9 };
  expect(modes.enter(retry, modes.isStray(retry), answer(null, true))).toBe(0);
  reader.close();
  expect(() => modes.isStray({ ino: 7, edition: 0, flags: O_RDWR, pid: 9 })).toThrow("ESTALE");
  clock.nowMs = 10_000;
  expect(() => modes.isStray({ ino: 7, edition: 0, flags: O_RDWR, pid: 9 })).toThrow("ESTALE");
});

test("O_DIRECT reads of the same image go past it on the same node", () => {
  const { open, modes, answer } = setup();
  const image = new FakeImage();
  const reader = open(7, O_RDONLY, image);
  const request = { ino: 7, edition: 0, flags: O_DIRECT, pid: 1 };
  const opened = answer(image, true);
  expect(modes.enter(request, modes.isStray(request), opened)).toBe(reader.id);
  expect(opened.directIo).toBe(true);
});

test("where the kernel refuses, files are opened in the ordinary way", () => {
  const { kernel, open } = setup();
  kernel.works = false;
  const image = new FakeImage();
  expect(open(7, O_RDONLY, image).opened).toMatchObject({ keepCache: true, directIo: false });
  expect(image.users).toBe(0);
});

test("the end of the session releases every image", () => {
  const { open, modes } = setup();
  const image = new FakeImage();
  open(7, O_RDONLY, image);
  open(8, O_RDONLY, image);
  modes.close();
  expect(image.users).toBe(0);
});

test("whatever is opened and closed in whatever order: the kernel never has to fail an open, and nothing leaks", () => {
  const step = fc.record({
    ino: fc.integer({ min: 1, max: 2 }),
    flags: fc.constantFrom(O_RDONLY, O_RDONLY, O_RDONLY, O_RDONLY | O_DIRECT, O_WRONLY, O_RDWR),
    image: fc.integer({ min: 0, max: 2 }),
    oldNumber: fc.boolean(),
    pid: fc.integer({ min: 1, max: 3 }),
    close: fc.nat(8),
    passesMs: fc.nat(400),
  });
  fc.assert(
    fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
      const { kernel, nodes, clock, open } = setup();
      const images = [new FakeImage(), new FakeImage()];
      const handles: ReturnType<typeof open>[] = [];
      for (const { ino, flags, image, oldNumber, pid, close, passesMs } of steps) {
        clock.nowMs += passesMs;
        const edition = oldNumber ? Math.max(0, nodes.edition(ino) - 1) : nodes.edition(ino);
        const handle = open(ino, flags, images[image] ?? null, { pid, edition });
        // Writers never share a node with readers of an image: a mapping of theirs would be one of the image.
        if ((flags & OpenFlag.O_ACCMODE) !== O_RDONLY) expect(handle.id).toBe(0);
        if (handle.id > 0 && (flags & O_DIRECT) === 0) expect(kernel.ids.get(handle.id)).toBe(images[image] as FakeImage);
        handles.push(handle);
        if (close < 5) handles.splice(Math.floor((handles.length * close) / 5), 1)[0]?.close();
      }
      for (const handle of handles) handle.close();
      expect(kernel.ids.size).toBe(0);
      expect(images.map((image) => image.users)).toEqual([0, 0]);
    }),
    { numRuns: 300 },
  );
});
