/** What `kiseki tenant renew`, `revoke` and `passphrase` do; loaded only for them. */
import { resolve } from "node:path";
import { changePassphrase, readTenantIdentity, renewCredentialsFile } from "../../crypto/credentials.ts";
import { renewTenant, tenantRecord } from "../../pki/cluster.ts";
import { appendRevoked, parseSerial, readRevoked } from "../../pki/revoked.ts";
import { CommandError, ExitStatus } from "../../process/failure.ts";
import { askNewPassphrase, askPassphrase, readPassphraseFile } from "../../process/passphrase.ts";
import { withPki } from "../shared/with-pki.ts";
import { parseDays } from "./days.ts";
import type { TenantPassphraseOptions, TenantRenewOptions, TenantRevokeOptions } from "./options.ts";

/** @throws CommandError, CredentialsError */
export async function renewTenantCommand(name: string, options: TenantRenewOptions): Promise<void> {
  const days = parseDays(options.days);
  const path = resolve(options.credentials);
  const before = await readTenantIdentity(path);
  if (before.tenant !== name) {
    throw new CommandError(ExitStatus.usage, `${path}: the credentials of tenant ${before.tenant}, not of ${name}`);
  }
  const issued = await renewTenant(resolve(options.ca), name, days).catch(withPki<never>);
  if (issued.cluster !== before.cluster) {
    throw new CommandError(ExitStatus.failure, `${path}: of cluster ${before.cluster}, and this CA is that of ${issued.cluster}`);
  }
  // Known before it can be used: what is not in the list could not be revoked by name.
  issued.record();
  await renewCredentialsFile(path, issued);
  const { serial, expires, earlier = [] } = tenantRecord(resolve(options.ca), name);
  process.stdout.write(`kiseki: ${path}: renewed, serial ${serial}, expires ${expires.slice(0, 10)}\n`);
  for (const old of earlier) {
    process.stdout.write(
      `kiseki: serial ${old.serial} holds until ${old.expires.slice(0, 10)}, or: kiseki tenant revoke ${name} --serial ${old.serial}\n`,
    );
  }
}

/** @throws CommandError */
export function revokeTenantCommand(name: string, options: TenantRevokeOptions): void {
  const folder = resolve(options.ca);
  try {
    const record = tenantRecord(folder, name);
    const known = [record.serial, ...(record.earlier ?? []).map(({ serial }) => serial)];
    const serials = options.all === true ? known : (options.serial ?? []).map((text) => serialOf(text));
    if (serials.length === 0) throw new CommandError(ExitStatus.usage, "give --serial SERIAL, as kiseki tenant list shows it, or --all");
    for (const serial of serials) {
      if (known.includes(serial) || options.force === true) continue;
      throw new CommandError(
        ExitStatus.failure,
        `serial ${serial} is none of tenant ${name}'s (${known.join(", ")}); --force revokes it all the same`,
      );
    }
    const before = readRevoked(folder);
    const added = serials.filter((serial) => !before.has(serial));
    if (added.length > 0) appendRevoked(folder, name, added);
    const many = serials.length === 1 ? "certificate" : "certificates";
    process.stdout.write(
      `kiseki: tenant ${name}: ${serials.length} ${many} revoked; a running node closes their connections within seconds\n`,
    );
  } catch (error) {
    withPki(error);
  }
}

function serialOf(text: string): string {
  const serial = parseSerial(text);
  if (serial === null)
    throw new CommandError(ExitStatus.usage, `--serial ${text}: expected hexadecimal digits, as kiseki tenant list shows them`);
  return serial;
}

/** @throws CommandError, CredentialsError */
export async function passphraseCommand(file: string, options: TenantPassphraseOptions): Promise<void> {
  const path = resolve(file);
  if (options.remove === true && options.newPassphraseFile !== undefined) {
    throw new CommandError(ExitStatus.usage, "give either --remove or --new-passphrase-file");
  }
  const before = async (): Promise<string> =>
    options.passphraseFile === undefined ? askPassphrase(`Passphrase of ${path}: `) : readPassphraseFile(options.passphraseFile);
  const { newPassphraseFile } = options;
  const after = (): string =>
    newPassphraseFile === undefined ? askNewPassphrase("New passphrase: ") : readPassphraseFile(newPassphraseFile);
  await changePassphrase(path, before, options.remove === true ? null : after);
  process.stdout.write(`kiseki: ${path}: ${options.remove === true ? "has no passphrase any more" : "has a new passphrase"}\n`);
}
