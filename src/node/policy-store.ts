/**
 * The policy as a running node serves it. The file is looked at whenever a session asks, so that what `kiseki policy set` writes beside
 * the node counts from the next session on.
 *
 * A file that can't be read or understood changes nothing: the last good one goes on. Where there was none since the node started,
 * sessions get the strictest policy: caching what an operator has forbidden is worse than reading slowly.
 */
import { closeSync, fstatSync, openSync, readFileSync } from "node:fs";
import { type EffectivePolicy, STRICTEST_POLICY } from "../protocol/policy.ts";
import { EMPTY_DOCUMENT, type PolicyDocument, parsePolicyDocument, policyOfSession } from "./policy-document.ts";

/** Some 50,000 levels; more is no file of ours. */
export const POLICY_FILE_MAX_BYTES = 16 * 1024 * 1024;

interface PolicyLogger {
  info(fields: object, message: string): void;
  error(fields: object, message: string): void;
}

export class PolicyStore {
  readonly #path: string;
  readonly #logger: PolicyLogger;
  /** null: never seen a good one. */
  #document: PolicyDocument | null = null;
  /** Of the file that was last looked at: its inode, size and time of change, or the error. */
  #seen = "";

  constructor(path: string, logger: PolicyLogger) {
    this.#path = path;
    this.#logger = logger;
  }

  /** What applies to a session of these namespaces from now on. */
  effective(tenant: string, namespaces: readonly string[], workload: string | null): EffectivePolicy {
    this.#refresh();
    return this.#document === null ? STRICTEST_POLICY : policyOfSession(this.#document, tenant, namespaces, workload);
  }

  #refresh(): void {
    let state = "";
    try {
      const fd = openSync(this.#path, "r");
      try {
        const { ino, size, mtimeNs, ctimeNs } = fstatSync(fd, { bigint: true });
        state = `${ino} ${size} ${mtimeNs} ${ctimeNs}`;
        if (state === this.#seen) return;
        this.#document = readDocument(fd, Number(size));
      } finally {
        closeSync(fd);
      }
      this.#logger.info({ path: this.#path }, "policy read; it applies to new sessions");
    } catch (error) {
      if (error instanceof Error && "code" in error && error.code === "ENOENT") {
        state = "none";
        this.#document = EMPTY_DOCUMENT;
      } else {
        state ||= String(error);
        if (state !== this.#seen) this.#complain(error);
      }
    }
    this.#seen = state;
  }

  #complain(error: unknown): void {
    const instead = this.#document === null ? "until it is repaired, new sessions cache nothing" : "the last good one stays in force";
    this.#logger.error({ err: error, path: this.#path }, `the policy can't be read: ${instead}`);
  }
}

function readDocument(fd: number, bytes: number): PolicyDocument {
  if (bytes > POLICY_FILE_MAX_BYTES) throw new Error(`${bytes} bytes, more than ${POLICY_FILE_MAX_BYTES}`);
  return parsePolicyDocument(readFileSync(fd, "utf8"));
}

/**
 * The file as it is now, for the commands that show and change it. No file: nothing has been set.
 * @throws Error, one line
 */
export function readPolicyDocument(path: string): PolicyDocument {
  let fd: number;
  try {
    fd = openSync(path, "r");
  } catch (error) {
    if (error instanceof Error && "code" in error && error.code === "ENOENT") return EMPTY_DOCUMENT;
    throw error;
  }
  try {
    return readDocument(fd, fstatSync(fd).size);
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error);
    throw new Error(`${path}: damaged: ${why}; correct the file by hand, or delete it to begin anew`, { cause: error });
  } finally {
    closeSync(fd);
  }
}
