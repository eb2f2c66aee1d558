/**
 * Certificates that are not accepted any more though they have not expired: DIR/pki/revoked, one line each: serial number in hexadecimal, tenant,
 * time. `kiseki tenant revoke` appends to it, and a running node reads it again when it has changed.
 */
import { appendFileSync, closeSync, fsyncSync, openSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";

const REVOKED_FILE = "revoked";
/** Serial numbers have 20 bytes at most (RFC 5280, section 4.1.2.2). */
const SERIAL_PATTERN = /^[0-9a-f]{2,40}$/;

/** As certificates and lists print it: lower case, without colons. null: no serial number. */
export function parseSerial(text: string): string | null {
  const serial = text.replaceAll(":", "").toLowerCase();
  return SERIAL_PATTERN.test(serial) ? serial : null;
}

/** Adds serial numbers; on disk when it returns. @throws the system's error */
export function appendRevoked(folder: string, tenant: string, serials: readonly string[]): void {
  const path = join(folder, REVOKED_FILE);
  const time = new Date().toISOString();
  const fd = openSync(path, "a", 0o600);
  try {
    appendFileSync(fd, serials.map((serial) => `${serial} ${tenant} ${time}\n`).join(""));
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
}

/** @throws the system's error, but for a missing file */
export function readRevoked(folder: string): Set<string> {
  let text: string;
  try {
    text = readFileSync(join(folder, REVOKED_FILE), "utf8");
  } catch (error) {
    if (error instanceof Error && "code" in error && error.code === "ENOENT") return new Set();
    throw error;
  }
  // A line that was cut off by a full disk names no serial.
  return new Set(text.split("\n").flatMap((line) => parseSerial(line.split(" ")[0] ?? "") ?? []));
}

/** Tells of serial numbers as they come into the file. */
export class RevokedList {
  readonly #folder: string;
  #stamp = "";
  #serials: ReadonlySet<string> = new Set();

  constructor(folder: string) {
    this.#folder = folder;
    this.refresh();
  }

  has(serial: string): boolean {
    return this.#serials.has(serial.toLowerCase());
  }

  /** Reads the file where it has changed; true then. @throws the system's error */
  refresh(): boolean {
    const stats = statSync(join(this.#folder, REVOKED_FILE), { throwIfNoEntry: false });
    const stamp = stats === undefined ? "" : `${stats.size} ${stats.mtimeMs} ${stats.ino}`;
    if (stamp === this.#stamp) return false;
    this.#serials = readRevoked(this.#folder);
    this.#stamp = stamp;
    return true;
  }
}
