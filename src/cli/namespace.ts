/** kiseki namespace: makes, lists and deletes a tenant's namespaces on a running node. */
import { type Command, Option } from "commander";

/** As given on the command line or in the environment. */
export interface NodeOptions {
  readonly dataAddr: string;
  readonly credentials?: string;
  readonly tenant?: string;
  readonly passphraseFile?: string;
}

function withNodeOptions(command: Command): Command {
  return command
    .addOption(
      new Option("--data-addr <host:port>", "storage nodes, comma-separated")
        .env("KISEKI_DATA_ADDR")
        .makeOptionMandatory()
        .argParser(String),
    )
    .addOption(new Option("--credentials <file>", "the tenant's credentials file").env("KISEKI_CREDENTIALS"))
    .addOption(new Option("--tenant <name>", "finds the credentials file where --credentials is not given").env("KISEKI_TENANT"))
    .option("--passphrase-file <file>", "passphrase of the credentials file, in its first line");
}

export function registerNamespace(program: Command): void {
  const namespace = program.command("namespace").description("make, list and delete the namespaces of a tenant");
  withNodeOptions(namespace.command("create").description("make an empty namespace").argument("<name>")).action(
    async (name: string, options: NodeOptions) => {
      const { createNamespaceCommand } = await import("./namespace-run.ts");
      await createNamespaceCommand(name, options);
    },
  );
  withNodeOptions(namespace.command("list").description("list the namespaces")).action(async (options: NodeOptions) => {
    const { listNamespacesCommand } = await import("./namespace-run.ts");
    await listNamespacesCommand(options);
  });
  withNodeOptions(namespace.command("delete").description("delete a namespace that is empty").argument("<name>"))
    .option("--force", "delete it with all that is in it")
    .action(async (name: string, options: NodeOptions & { force?: boolean }) => {
      const { deleteNamespaceCommand } = await import("./namespace-run.ts");
      await deleteNamespaceCommand(name, options, options.force === true);
    });
}
