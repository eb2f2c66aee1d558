/** What `kiseki tenant limit` does; loaded only for it. */
import { existsSync } from "node:fs";
import { resolve } from "node:path";
import { formatSize, parseSize } from "../../config/units.ts";
import { DataFolder } from "../../node/data-folder.ts";
import { readLimits, writeLimits } from "../../node/limits.ts";
import { CommandError, ExitStatus } from "../../process/failure.ts";
import { TENANT_NAME_PATTERN } from "../../protocol/limits.ts";
import { humanCount } from "../shared/quantities.ts";
import type { TenantLimitOptions } from "./options.ts";

/** @throws CommandError */
export function limitTenantCommand(name: string, options: TenantLimitOptions): void {
  if (!TENANT_NAME_PATTERN.test(name)) throw new CommandError(ExitStatus.usage, `${name}: not a tenant name`);
  const folder = new DataFolder(resolve(options.dataDir));
  if (!existsSync(folder.database)) throw new CommandError(ExitStatus.failure, `${folder.path}: not a storage node's data folder`);
  const change = {
    bytes: sizeOrNone("--bytes", options.bytes, parseSize, "10T"),
    inodes: sizeOrNone("--inodes", options.inodes, parseCount, "50M"),
    namespaces: sizeOrNone("--namespaces", options.namespaces, parseCount, "100"),
  };
  try {
    const isChange = Object.values(change).some((value) => value !== undefined);
    const limits = isChange ? writeLimits(folder.limits, name, change) : (readLimits(folder.limits)[name] ?? {});
    if (options.json === true) process.stdout.write(`${JSON.stringify({ tenant: name, ...limits })}\n`);
    else {
      const { bytes, inodes, namespaces } = limits;
      const said = (value: number | undefined, text: (value: number) => string) => (value === undefined ? "no limit" : text(value));
      process.stdout.write(
        `${name}\tbytes ${said(bytes, formatSize)}\tinodes ${said(inodes, humanCount)}\tnamespaces ${said(namespaces, humanCount)}\n`,
      );
    }
  } catch (error) {
    throw new CommandError(ExitStatus.failure, (error as Error).message, { cause: error });
  }
}

/** "50M" is 50 million: things are counted in tens. */
function parseCount(text: string): number | null {
  const match = /^(\d{1,15})([KMG]?)$/i.exec(text.trim());
  if (match === null) return null;
  const value = Number(match[1]) * ({ K: 1e3, M: 1e6, G: 1e9 }[(match[2] ?? "").toUpperCase()] ?? 1);
  return Number.isSafeInteger(value) ? value : null;
}

/** undefined: not given; null: none. @throws CommandError */
function sizeOrNone(
  option: string,
  text: string | undefined,
  parse: (text: string) => number | null,
  such: string,
): number | null | undefined {
  if (text === undefined) return undefined;
  if (text === "none") return null;
  const value = parse(text);
  if (value === null) throw new CommandError(ExitStatus.usage, `${option} ${text}: expected a number such as ${such}, or none`);
  return value;
}
