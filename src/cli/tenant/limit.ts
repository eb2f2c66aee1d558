/** What `kiseki tenant limit` does; loaded only for it. */
import { existsSync } from "node:fs";
import { resolve } from "node:path";
import { formatAddress, parseAddresses } from "../../config/address.ts";
import { formatSize, parseSize } from "../../config/units.ts";
import { DataFolder } from "../../node/data-folder.ts";
import { changeLimits, type LimitsChange, readLimits } from "../../node/limits.ts";
import { issueForTenant } from "../../pki/cluster.ts";
import { CommandError, ExitStatus } from "../../process/failure.ts";
import { TENANT_NAME_PATTERN } from "../../protocol/limits.ts";
import { type AnswerOf, COUNTED } from "../../protocol/messages.ts";
import { humanCount } from "../shared/quantities.ts";
import { withClient } from "../shared/with-node.ts";
import { withPki } from "../shared/with-pki.ts";
import type { TenantLimitOptions } from "./options.ts";

type Limits = AnswerOf<"tenantLimit">["limits"];
type Used = AnswerOf<"tenantLimit">["used"];

/** @throws CommandError, TransportError, NodeError */
export async function limitTenantCommand(name: string, options: TenantLimitOptions): Promise<void> {
  if (!TENANT_NAME_PATTERN.test(name)) throw new CommandError(ExitStatus.usage, `${name}: not a tenant name`);
  const change = {
    bytes: sizeOrNone("--bytes", options.bytes, parseSize, "10T"),
    inodes: sizeOrNone("--inodes", options.inodes, parseCount, "50M"),
    namespaces: sizeOrNone("--namespaces", options.namespaces, parseCount, "100"),
  };
  const { dataDir, dataAddr, ca } = options;
  if (dataDir !== undefined && ca === undefined) print(name, await changeHere(name, resolve(dataDir), change), null, options);
  else if (dataDir === undefined && dataAddr !== undefined && ca !== undefined) {
    const { limits, used } = await changeThere(name, dataAddr, resolve(ca), change);
    print(name, limits, used, options);
  } else {
    throw new CommandError(ExitStatus.usage, "give either --data-dir DIR, on the node's host, or --data-addr HOST:PORT with --ca DIR");
  }
}

async function changeHere(name: string, dataDir: string, change: LimitsChange): Promise<Limits> {
  const folder = new DataFolder(dataDir);
  if (!existsSync(folder.database)) throw new CommandError(ExitStatus.failure, `${folder.path}: not a storage node's data folder`);
  try {
    const isChange = Object.values(change).some((value) => value !== undefined);
    const limits = isChange ? await changeLimits(folder.limits, name, change) : (readLimits(folder.limits)[name] ?? {});
    const { bytes = null, inodes = null, namespaces = null } = limits;
    return { bytes, inodes, namespaces };
  } catch (error) {
    throw new CommandError(ExitStatus.failure, (error as Error).message, { cause: error });
  }
}

/** The certificate is made for this command and never leaves its memory. */
async function changeThere(name: string, dataAddr: string, ca: string, change: LimitsChange): Promise<AnswerOf<"tenantLimit">> {
  const addresses = parseAddresses(dataAddr);
  if (addresses === null) throw new CommandError(ExitStatus.usage, `--data-addr ${dataAddr}: expected HOST:PORT[,HOST:PORT]`);
  const tls = await issueForTenant(ca, name).catch(withPki<never>);
  return await withClient(addresses.map(formatAddress), tls, async (client) => (await client.call("tenantLimit", change)).answer);
}

/** What is used is known to a running node alone. */
function print(name: string, limits: Limits, used: Used | null, { json }: TenantLimitOptions): void {
  if (json === true) {
    const set = Object.fromEntries(Object.entries(limits).filter(([, limit]) => limit !== null));
    process.stdout.write(`${JSON.stringify({ tenant: name, ...set, ...(used === null ? {} : { used }) })}\n`);
    return;
  }
  const text = { bytes: formatSize, inodes: humanCount, namespaces: humanCount };
  const said = COUNTED.map((what) => {
    const limit = limits[what] === null ? "no limit" : text[what](limits[what]);
    return `${what} ${used === null ? limit : `${text[what](used[what])} of ${limit}`}`;
  });
  process.stdout.write(`${[name, ...said].join("\t")}\n`);
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
