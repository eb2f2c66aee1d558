import { expect, test } from "bun:test";
import * as fs from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { ImageFile, isOpenNowhere } from "./image-file.ts";

async function withImage(use: (path: string) => Promise<void> | void): Promise<void> {
  const folder = fs.mkdtempSync(join(tmpdir(), "kiseki-image-"));
  const path = join(folder, "image");
  fs.writeFileSync(path, "content");
  try {
    await use(path);
  } finally {
    fs.rmSync(folder, { recursive: true });
  }
}

test("an image is in use until it was released as often as acquired", () =>
  withImage((path) => {
    const image = new ImageFile(path, 7);
    expect(image.isUnused).toBe(true);
    fs.closeSync(image.acquire());
    fs.closeSync(image.acquire());
    image.release();
    expect(image.isUnused).toBe(false);
    image.release();
    expect(image.isUnused).toBe(true);
    expect(() => image.release()).toThrow("more often");
  }));

test("an image that can't be opened was not acquired", () =>
  withImage((path) => {
    const image = new ImageFile(`${path}.absent`, 7);
    expect(() => image.acquire()).toThrow("ENOENT");
    expect(image.isUnused).toBe(true);
    fs.symlinkSync(path, `${path}.absent`);
    expect(() => image.acquire()).toThrow("ELOOP");
  }));

test("a file that somebody has open, in whatever way, is open somewhere", () =>
  withImage((path) => {
    expect(isOpenNowhere(path)).toBe(true);
    for (const flags of ["r", "r+", "a"]) {
      const fd = fs.openSync(path, flags);
      expect(isOpenNowhere(path)).toBe(false);
      fs.closeSync(fd);
      expect(isOpenNowhere(path)).toBe(true);
    }
    expect(isOpenNowhere(`${path}.absent`)).toBe(true);
  }));

test("whoever waits for an image to be unused is told so, or can give up", async () => {
  await withImage(async (path) => {
    const image = new ImageFile(path, 7);
    const reader = fs.openSync(path, "r");
    const aborted = new AbortController();
    aborted.abort();
    expect(await image.whenUnused(aborted.signal)).toBe(false);
    const waiting = image.whenUnused();
    fs.closeSync(reader);
    expect(await waiting).toBe(true);
  });
});
