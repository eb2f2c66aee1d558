import { expect, test } from "bun:test";
import { closeSync, mkdtempSync, openSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { FileSync } from "./file-sync.ts";

test("after a failure nothing is called safe until it is forgotten, though the system says so", async () => {
  const folder = mkdtempSync(join(tmpdir(), "kiseki-sync-"));
  const open = () => openSync(join(folder, "f"), "w");
  const file = new FileSync(open());
  await file.sync();
  // A descriptor that can't be synced, and then one of the same number that can.
  closeSync(file.fd);
  const failure = expect.objectContaining({ code: "EBADF" });
  const outcomes = [file.sync(), file.sync()].map((one) => one.catch((error: unknown) => error));
  expect(await outcomes[0]).toEqual(failure);
  expect(open()).toBe(file.fd);
  expect(await outcomes[1]).toEqual(failure);
  expect(await file.sync().catch((error: unknown) => error)).toEqual(failure);
  expect(file.failed).toBeTrue();
  file.forget();
  await file.sync();
  expect(file.failed).toBeFalse();
  file.close();
  rmSync(folder, { recursive: true });
});
