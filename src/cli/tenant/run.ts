/** What `kiseki tenant` does; loaded only for it. */
import { existsSync } from "node:fs";
import { resolve } from "node:path";
import { makeCredentials, writeCredentialsFile } from "../../crypto/credentials.ts";
import { createTenant, listTenants } from "../../pki/cluster.ts";
import { readRevoked } from "../../pki/revoked.ts";
import { CommandError, ExitStatus } from "../../process/failure.ts";
import { askNewPassphrase, readPassphraseFile } from "../../process/passphrase.ts";
import { withPki } from "../shared/with-pki.ts";
import { parseDays } from "./days.ts";
import type { TenantCreateOptions } from "./options.ts";

function choosePassphrase(options: TenantCreateOptions): string | undefined {
  if (options.passphraseFile !== undefined) return readPassphraseFile(options.passphraseFile);
  return options.passphrase === true ? askNewPassphrase("Passphrase: ") : undefined;
}

/** @throws CommandError, CredentialsError */
export async function createTenantCommand(name: string, options: TenantCreateOptions): Promise<void> {
  const days = parseDays(options.days);
  const out = resolve(options.out);
  if (existsSync(out)) {
    throw new CommandError(ExitStatus.failure, `${out}: exists already, and may hold the only key to a tenant's data; give another --out`);
  }
  const issued = await createTenant(resolve(options.ca), name, days).catch(withPki<never>);
  const { cluster, tenant, ca, cert, key } = issued;
  await writeCredentialsFile(out, await makeCredentials({ cluster, tenant, ca, cert, key }, choosePassphrase(options)));
  try {
    issued.record();
  } catch (error) {
    withPki(error);
  }
  process.stdout.write(`kiseki: tenant ${tenant} of cluster ${cluster}, credentials in ${out}; keep a copy: without it the data is lost\n`);
}

/** @throws CommandError */
export function listTenantsCommand(ca: string): void {
  try {
    const revoked = readRevoked(resolve(ca));
    for (const { tenant, created, expires, serial, shredded, earlier = [] } of listTenants(resolve(ca))) {
      for (const one of [...earlier, { serial, expires }]) {
        const end = shredded === undefined ? `expires ${one.expires.slice(0, 10)}` : `shredded ${shredded.slice(0, 10)}`;
        const state = revoked.has(one.serial) ? "\trevoked" : "";
        process.stdout.write(`${tenant}\tcreated ${created.slice(0, 10)}\t${end}\tserial ${one.serial}${state}\n`);
      }
    }
  } catch (error) {
    withPki(error);
  }
}
