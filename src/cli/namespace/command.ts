/** kiseki namespace: makes, lists and deletes a tenant's namespaces on a running node. */
import type { Command } from "commander";
import { type NodeOptions, withNodeOptions } from "../shared/node-options.ts";

export function registerNamespace(program: Command): void {
  const namespace = program.command("namespace").description("make, list and delete the namespaces of a tenant");
  withNodeOptions(namespace.command("create").description("make an empty namespace").argument("<name>")).action(
    async (name: string, options: NodeOptions) => {
      const { createNamespaceCommand } = await import("./run.ts");
      await createNamespaceCommand(name, options);
    },
  );
  withNodeOptions(namespace.command("list").description("list the namespaces")).action(async (options: NodeOptions) => {
    const { listNamespacesCommand } = await import("./run.ts");
    await listNamespacesCommand(options);
  });
  withNodeOptions(namespace.command("delete").description("delete a namespace that is empty").argument("<name>"))
    .option("--force", "delete it with all that is in it")
    .action(async (name: string, options: NodeOptions & { force?: boolean }) => {
      const { deleteNamespaceCommand } = await import("./run.ts");
      await deleteNamespaceCommand(name, options, options.force === true);
    });
}
