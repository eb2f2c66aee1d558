/** What `kiseki tenant shred` does; loaded only for it. */
import { closeSync, openSync, readSync, writeSync } from "node:fs";
import { resolve } from "node:path";
import { formatAddress, parseAddresses } from "../../config/address.ts";
import { readTenantIdentity } from "../../crypto/credentials.ts";
import { issueForTenant, recordShredded } from "../../pki/cluster.ts";
import { CommandError, ExitStatus } from "../../process/failure.ts";
import { NodeError } from "../../protocol/errors.ts";
import type { TlsIdentity } from "../../transport/transport.ts";
import { withClient } from "../shared/with-node.ts";
import { withPki } from "../shared/with-pki.ts";
import type { TenantShredOptions } from "./options.ts";

/** A typed line. */
const LINE_MAX_BYTES = 1_024;

/** @throws CommandError, CredentialsError, TransportError, NodeError */
export async function shredTenantCommand(name: string, options: TenantShredOptions): Promise<void> {
  const addresses = parseAddresses(options.dataAddr);
  if (addresses === null) throw new CommandError(ExitStatus.usage, `--data-addr ${options.dataAddr}: expected HOST:PORT[,HOST:PORT]`);
  const tls = await identityOf(name, options);
  if (options.yes !== true) confirm(name);
  const keys = await shred(addresses.map(formatAddress), tls);
  if (options.ca !== undefined) {
    try {
      recordShredded(resolve(options.ca), name);
    } catch (error) {
      withPki(error);
    }
  }
  if (keys === null) {
    process.stdout.write(`kiseki: tenant ${name} was shredded before; nothing is left to destroy\n`);
    return;
  }
  const destroyed = keys === 0 ? "it had no key yet" : keys === 1 ? "its key is destroyed" : `its ${keys} keys are destroyed`;
  process.stdout.write(`kiseki: tenant ${name} is shredded: ${destroyed}, and nobody can open its data any more\n`);
}

async function identityOf(name: string, { ca, credentials }: TenantShredOptions): Promise<TlsIdentity> {
  if ((ca === undefined) === (credentials === undefined)) {
    throw new CommandError(ExitStatus.usage, "give either --ca DIR, the pki folder of a storage node, or --credentials FILE of the tenant");
  }
  if (credentials === undefined) return await issueForTenant(resolve(ca ?? ""), name).catch(withPki<never>);
  const identity = await readTenantIdentity(credentials);
  if (identity.tenant !== name) {
    throw new CommandError(ExitStatus.notAuthorized, `${credentials}: the credentials of tenant ${identity.tenant}, not of ${name}`);
  }
  return identity;
}

/** How many keys were destroyed; null: that had been done before. */
async function shred(addrs: string[], tls: TlsIdentity): Promise<number | null> {
  try {
    return await withClient(addrs, tls, async (client) => (await client.call("keyShred", {})).answer.keys);
  } catch (error) {
    // Also where the answer to our own request was lost with the connection.
    if (error instanceof NodeError && error.code === "key_revoked") return null;
    throw error;
  }
}

/** @throws CommandError unless the tenant's name was typed on the terminal */
function confirm(name: string): void {
  let terminal: number;
  try {
    terminal = openSync("/dev/tty", "r+");
  } catch (cause) {
    throw new CommandError(ExitStatus.usage, `this destroys all data of tenant ${name}, and there is no terminal to ask on: use --yes`, {
      cause,
    });
  }
  try {
    writeSync(
      terminal,
      `This destroys the keys of tenant ${name}: all its data is lost, for everybody, for ever.\nType the tenant's name: `,
    );
    const typed = Buffer.alloc(LINE_MAX_BYTES);
    const length = readSync(terminal, typed, 0, typed.length, null);
    if (typed.toString("utf8", 0, length).trim() === name) return;
  } finally {
    closeSync(terminal);
  }
  throw new CommandError(ExitStatus.failure, "that is not the tenant's name: nothing was destroyed");
}
