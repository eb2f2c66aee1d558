/** What a mount's filesystem lets go of when its caches are wiped. */
import type { WipeReason } from "../cache/lifecycle/lifecycle.ts";
import type { FileWriter } from "../fs/content/file-writer.ts";
import type { Filesystem } from "../fs/filesystem.ts";
import { REVOKED } from "../fs/shard/guarded-calls.ts";
import type { Volume } from "../fs/volume.ts";
import type { Logger } from "../log.ts";

/** Resolves when the kernel has let go, too. */
export async function wipeFilesystem(
  reason: WipeReason,
  filesystem: Filesystem,
  volumes: Iterable<Volume>,
  writer: FileWriter,
  log: Logger,
): Promise<void> {
  if (reason === "revoked") {
    filesystem.refuse(REVOKED);
    const files = writer.discardAll();
    if (files > 0) log.error({ files }, "what was written to these files and had not reached the node is lost");
  }
  await Promise.all(Array.from(volumes, ({ namespace }) => namespace.wipe()));
}
