/** A command's short tie to a running node, with a tenant's credentials. */

import { formatAddress, parseAddresses } from "../../config/address.ts";
import { findCredentials } from "../../config/credentials-path.ts";
import { type Credentials, readCredentialsFile } from "../../crypto/credentials.ts";
import { CommandError, ExitStatus } from "../../process/failure.ts";
import { askPassphrase, readPassphraseFile } from "../../process/passphrase.ts";
import { SESSION_ID_BYTES } from "../../protocol/limits.ts";
import { NodeClient } from "../../transport/node-client.ts";
import type { TlsIdentity } from "../../transport/transport.ts";
import { VERSION } from "../../version.ts";
import type { NodeOptions } from "./node-options.ts";

const CONNECT_TIMEOUT_MS = 10_000;
const REQUEST_TIMEOUT_MS = 30_000;

/** @throws CommandError, CredentialsError, TransportError, and what `work` throws */
export async function withNode<T>(options: NodeOptions, work: (client: NodeClient, tenant: string) => Promise<T>): Promise<T> {
  return await withNodeAndKek(options, (client, credentials) => {
    // Only the TLS identity is needed here.
    credentials.kek.fill(0);
    return work(client, credentials.tenant);
  });
}

/** The same for what needs the tenant's KEK, which is overwritten afterwards. */
export async function withNodeAndKek<T>(
  options: NodeOptions,
  work: (client: NodeClient, credentials: Credentials) => Promise<T>,
): Promise<T> {
  const addresses = parseAddresses(options.dataAddr);
  if (addresses === null) throw new CommandError(ExitStatus.usage, `--data-addr ${options.dataAddr}: expected HOST:PORT[,HOST:PORT]`);
  if (options.credentials === undefined && options.tenant === undefined) {
    throw new CommandError(ExitStatus.usage, "give --credentials FILE, or --tenant NAME to find it in the usual places");
  }
  const path = options.credentials ?? findCredentials(options.tenant ?? "");
  const credentials = await readCredentialsFile(path, async () =>
    options.passphraseFile === undefined ? askPassphrase(`Passphrase of ${path}: `) : readPassphraseFile(options.passphraseFile),
  );
  const tls = { ca: credentials.ca, cert: credentials.cert, key: credentials.key };
  try {
    return await withClient(addresses.map(formatAddress), tls, (client) => work(client, credentials));
  } finally {
    credentials.kek.fill(0);
  }
}

/** Connects, works, and closes. @throws TransportError, and what `work` throws */
export async function withClient<T>(addrs: string[], tls: TlsIdentity, work: (client: NodeClient) => Promise<T>): Promise<T> {
  const client = new NodeClient({
    addrs,
    tls,
    sessionId: crypto.getRandomValues(new Uint8Array(SESSION_ID_BYTES)),
    role: "meta",
    clientVersion: VERSION,
    requestTimeoutMs: REQUEST_TIMEOUT_MS,
    connectTimeoutMs: CONNECT_TIMEOUT_MS,
  });
  try {
    await client.connect();
    return await work(client);
  } finally {
    await client.close();
  }
}
