/** kiseki tenant: makes tenants of a cluster and lists them. Works on the CA's folder; no node has to run. */
import type { Command } from "commander";

/** As given on the command line. */
export interface TenantCreateOptions {
  readonly ca: string;
  readonly out: string;
  readonly days: string;
  readonly passphrase?: boolean;
  readonly passphraseFile?: string;
}

export function registerTenant(program: Command): void {
  const tenant = program.command("tenant").description("make and list the tenants of a cluster");
  tenant
    .command("create")
    .description("make a tenant: its key-encryption key and client certificate, in one credentials file")
    .argument("<name>")
    .requiredOption("--ca <dir>", "the pki folder in a storage node's data folder")
    .requiredOption("--out <file>", "credentials file to make (mode 0600); an existing file is never replaced")
    .option("--passphrase", "ask for a passphrase that the key-encryption key is sealed under")
    .option("--passphrase-file <file>", "take the passphrase from the first line of this file")
    .option("--days <n>", "how long the certificate is valid", "3650")
    .action(async (name: string, options: TenantCreateOptions) => {
      const { createTenantCommand } = await import("./tenant-run.ts");
      await createTenantCommand(name, options);
    });
  tenant
    .command("list")
    .description("list the tenants that were made with a CA")
    .requiredOption("--ca <dir>", "the pki folder in a storage node's data folder")
    .action(async (options: { ca: string }) => {
      const { listTenantsCommand } = await import("./tenant-run.ts");
      listTenantsCommand(options.ca);
    });
}
