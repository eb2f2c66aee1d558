/** What `kiseki namespace` does; loaded only for it. */

import { ALL_NAMESPACES } from "../../config/mount-config.ts";
import { CommandError, ExitStatus } from "../../process/failure.ts";
import { NAMESPACE_NAME_PATTERN } from "../../protocol/limits.ts";
import type { NodeOptions } from "../shared/node-options.ts";
import { withNode } from "../shared/with-node.ts";

function checkName(name: string): void {
  if (!NAMESPACE_NAME_PATTERN.test(name)) {
    throw new CommandError(
      ExitStatus.usage,
      `${name}: not a namespace name; use 1 to 64 of a-z, 0-9, ".", "_", "-", beginning and ending with a letter or digit`,
    );
  }
}

export async function createNamespaceCommand(name: string, options: NodeOptions): Promise<void> {
  checkName(name);
  if (name === ALL_NAMESPACES)
    throw new CommandError(ExitStatus.usage, `${name}: stands for every namespace of a tenant; choose another name`);
  await withNode(options, (client) => client.call("namespaceCreate", { name }));
}

export async function listNamespacesCommand(options: NodeOptions): Promise<void> {
  const { answer } = await withNode(options, (client) => client.call("namespaceList", {}));
  for (const name of answer.names) process.stdout.write(`${name}\n`);
}

export async function deleteNamespaceCommand(name: string, options: NodeOptions, force: boolean): Promise<void> {
  checkName(name);
  await withNode(options, (client) => client.call("namespaceDelete", { name, force }));
}
