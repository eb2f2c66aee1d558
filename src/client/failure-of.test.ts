import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { ConfigError } from "../config/config-error.ts";
import { CredentialsError } from "../crypto/credentials.ts";
import { MountError } from "../mount/mount-error.ts";
import { CommandError } from "../process/failure.ts";
import { NodeError, TransportError } from "../protocol/errors.ts";
import { NODE_ERRORS } from "../protocol/messages.ts";
import { failureOf } from "./failure-of.ts";

test.each([
  [new CommandError(4, "no"), 4],
  [new ConfigError("bad"), 2],
  [new CredentialsError("unreadable"), 1],
  [new MountError("not-empty", "not empty"), 1],
  [new MountError("option", "bad option"), 2],
  [new TransportError("unreachable", "nobody answers"), 3],
  [new TransportError("timeout", "too late"), 3],
  [new TransportError("tls", "certificate has expired"), 4],
  [new TransportError("not_authorized", "refused"), 4],
  [new NodeError("not_authorized"), 4],
  [new NodeError("shutting_down"), 3],
  [new NodeError("no_space"), 1],
  [new NodeError("not_found", "no such namespace"), 1],
])("%o has its exit status, and no stack", (error, exitStatus) => {
  const failure = failureOf(error);
  expect(failure.exitStatus).toBe(exitStatus as typeof failure.exitStatus);
  expect(failure.message).toStartWith(error.message);
  expect(failure.stack).toBeUndefined();
});

test("every refusal of a node has a status", () => {
  for (const code of NODE_ERRORS) expect(failureOf(new NodeError(code)).exitStatus).toBeGreaterThan(0);
});

test("an unreachable node is described in words", () => {
  expect(failureOf(new TransportError("unreachable", "10.0.0.1:9100: ECONNREFUSED")).message).toBe(
    "10.0.0.1:9100: connection refused; is the storage node running, and is --data-addr right?",
  );
});

test("a system error is a sentence", () => {
  let caught: unknown;
  try {
    readFileSync("/nonexistent/file");
  } catch (error) {
    caught = error;
  }
  expect(failureOf(caught)).toEqual({ exitStatus: 1, message: "no such file or directory, open '/nonexistent/file'" });
});

test("only what nobody foresaw shows a stack", () => {
  expect(failureOf(new TypeError("undefined is not a function"))).toMatchObject({
    exitStatus: 1,
    stack: expect.stringContaining("TypeError"),
  });
  expect(failureOf("text").message).toBe("internal error: text");
});
