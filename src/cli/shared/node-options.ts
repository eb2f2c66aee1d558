/** The options of commands that ask a running node as a tenant. */
import { type Command, Option } from "commander";

/** As given on the command line or in the environment. */
export interface NodeOptions {
  readonly dataAddr: string;
  readonly credentials?: string;
  readonly tenant?: string;
  readonly passphraseFile?: string;
}

/** `optional`: the command has another way without a running node. */
export function withNodeOptions(command: Command, { optional = false } = {}): Command {
  return command
    .addOption(
      new Option("--data-addr <host:port>", "storage nodes, comma-separated")
        .env("KISEKI_DATA_ADDR")
        .makeOptionMandatory(!optional)
        .argParser(String),
    )
    .addOption(new Option("--credentials <file>", "the tenant's credentials file").env("KISEKI_CREDENTIALS"))
    .addOption(new Option("--tenant <name>", "finds the credentials file where --credentials is not given").env("KISEKI_TENANT"))
    .option("--passphrase-file <file>", "passphrase of the credentials file, in its first line");
}
