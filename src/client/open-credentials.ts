/** The credentials that a client's settings lead to. */
import { findCredentials } from "../config/credentials-path.ts";
import type { ClientConfig } from "../config/mount-config.ts";
import { type Credentials, readCredentialsFile } from "../crypto/credentials.ts";
import { CommandError, ExitStatus } from "../process/failure.ts";
import { askPassphrase, readPassphraseFile } from "../process/passphrase.ts";

/** Asks for the passphrase where there is one. @throws CommandError, CredentialsError */
export async function openCredentials(config: ClientConfig): Promise<Credentials> {
  const path = config.credentialsPath ?? findCredentials(config.tenant ?? "");
  const credentials = await readCredentialsFile(path, async () =>
    config.passphrasePath === null ? askPassphrase(`Passphrase of ${path}: `) : readPassphraseFile(config.passphrasePath),
  );
  if (config.tenant !== null && config.tenant !== credentials.tenant) {
    throw new CommandError(
      ExitStatus.notAuthorized,
      `${path}: these are the credentials of tenant ${credentials.tenant}, not of ${config.tenant}; use --tenant ${credentials.tenant} or another file`,
    );
  }
  return credentials;
}
