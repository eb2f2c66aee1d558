/** kiseki tenant: makes tenants of a cluster and lists them, in the CA's folder, for which no node has to run; shreds them on a running one. */
import { type Command, Option } from "commander";
import { withNodeOptions } from "../shared/node-options.ts";
import type {
  TenantCreateOptions,
  TenantLimitOptions,
  TenantPassphraseOptions,
  TenantRenewOptions,
  TenantRevokeOptions,
  TenantRotateOptions,
  TenantShredOptions,
} from "./options.ts";

export function registerTenant(program: Command): void {
  const tenant = program.command("tenant").description("make, list, renew, revoke, rotate and shred the tenants of a cluster");
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
      const { createTenantCommand } = await import("./run.ts");
      await createTenantCommand(name, options);
    });
  tenant
    .command("list")
    .description("list the tenants that were made with a CA")
    .requiredOption("--ca <dir>", "the pki folder in a storage node's data folder")
    .action(async (options: { ca: string }) => {
      const { listTenantsCommand } = await import("./run.ts");
      listTenantsCommand(options.ca);
    });
  tenant
    .command("renew")
    .description(
      "give a tenant's credentials file a new certificate; its keys stay, and the certificate before holds until it expires or is revoked",
    )
    .argument("<name>")
    .requiredOption("--ca <dir>", "the pki folder in a storage node's data folder")
    .requiredOption("--credentials <file>", "the tenant's credentials file, which is replaced; its passphrase is not needed")
    .option("--days <n>", "how long the new certificate is valid", "3650")
    .action(async (name: string, options: TenantRenewOptions) => {
      const { renewTenantCommand } = await import("./credentials.ts");
      await renewTenantCommand(name, options);
    });
  tenant
    .command("revoke")
    .description("end certificates of a tenant before they expire; running nodes close their connections within seconds")
    .argument("<name>")
    .requiredOption("--ca <dir>", "the pki folder in a storage node's data folder")
    .option("--serial <serial...>", "serial numbers, as kiseki tenant list shows them")
    .option("--all", "all that were issued to the tenant; new ones: kiseki tenant renew")
    .option("--force", "also a serial number that was not issued to this tenant")
    .action(async (name: string, options: TenantRevokeOptions) => {
      const { revokeTenantCommand } = await import("./credentials.ts");
      revokeTenantCommand(name, options);
    });
  withNodeOptions(
    tenant
      .command("rotate")
      .description("begin a new data key on a running node: what is written from now on is sealed under it")
      .argument("<name>"),
  )
    .option(
      "--rewrite",
      "move what is sealed under earlier data keys to the newest one, beside running mounts; begins a new one only where there is none but the first",
    )
    .option("--rate <size>", "what --rewrite moves a second, at most", "100M")
    .option("--json", "print what --rewrite has done as JSON")
    .action(async (name: string, options: TenantRotateOptions) => {
      const { rotateTenantCommand } = await import("./rotate.ts");
      await rotateTenantCommand(name, options);
    });
  tenant
    .command("limit")
    .description(
      "limit what a tenant may store, or, without an option, print its limits (over the network also what it uses); a running node obeys within a second",
    )
    .argument("<name>")
    .option("--data-dir <dir>", "the storage node's data folder, on its host")
    .addOption(new Option("--data-addr <host:port>", "storage nodes, comma-separated; with --ca").env("KISEKI_DATA_ADDR"))
    .option("--ca <dir>", "the pki folder of a storage node: whoever has it may set limits over the network")
    .option("--bytes <size>", "of chunks, each stored once, and records: 10T, or none for no limit")
    .option("--inodes <n>", "files and folders of all namespaces: 50M, or none")
    .option("--namespaces <n>", "namespaces: 100, or none")
    .option("--json", "print JSON")
    .action(async (name: string, options: TenantLimitOptions) => {
      const { limitTenantCommand } = await import("./limit.ts");
      await limitTenantCommand(name, options);
    });
  tenant
    .command("passphrase")
    .description("set, change or remove the passphrase of a credentials file")
    .argument("<file>", "the credentials file, which is replaced")
    .option("--passphrase-file <file>", "the present passphrase, in its first line")
    .option("--new-passphrase-file <file>", "the new passphrase, in its first line")
    .option("--remove", "store the key-encryption key without a passphrase")
    .action(async (file: string, options: TenantPassphraseOptions) => {
      const { passphraseCommand } = await import("./credentials.ts");
      await passphraseCommand(file, options);
    });
  tenant
    .command("shred")
    .description("destroy a tenant's keys for good: nobody can open its data any more, and its name is not given again")
    .argument("<name>")
    .addOption(
      new Option("--data-addr <host:port>", "storage nodes, comma-separated")
        .env("KISEKI_DATA_ADDR")
        .makeOptionMandatory()
        .argParser(String),
    )
    .option("--ca <dir>", "the pki folder in a storage node's data folder: makes a certificate for this command alone")
    .option("--credentials <file>", "the tenant's credentials file, instead of --ca; its passphrase is not needed")
    .option("--yes", "don't ask for the tenant's name on the terminal")
    .action(async (name: string, options: TenantShredOptions) => {
      const { shredTenantCommand } = await import("./shred.ts");
      await shredTenantCommand(name, options);
    });
}
