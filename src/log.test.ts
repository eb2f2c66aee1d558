import { expect, test } from "bun:test";
import { mkdtempSync, readFileSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createLogger } from "./log.ts";

test("the log file is private, has one JSON object a line, and no secrets", () => {
  const path = join(mkdtempSync(join(tmpdir(), "log-")), "sub/kiseki.log");
  const log = createLogger("info", path);
  log.debug("not at this level");
  log.info(
    { passphrase: "hunter2", credentials: { tenant: "acme", kek: "hunter2" }, job: { credentials: { key: "hunter2" } } },
    "mounting",
  );
  const text = readFileSync(path, "utf8");
  expect(text.trimEnd().split("\n")).toHaveLength(1);
  expect(JSON.parse(text)).toMatchObject({ msg: "mounting", credentials: { tenant: "acme", kek: "[redacted]" } });
  expect(text).not.toContain("hunter2");
  expect(statSync(path).mode & 0o777).toBe(0o600);
});
