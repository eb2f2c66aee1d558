/** What `kiseki tenant rotate` does; loaded only for it. */
import { KeyRing } from "../../crypto/key-ring.ts";
import { CommandError, ExitStatus } from "../../process/failure.ts";
import { NodeError } from "../../protocol/errors.ts";
import { KEY_EPOCHS_MAX } from "../../protocol/limits.ts";
import type { NodeOptions } from "../shared/node-options.ts";
import { withNodeAndKek } from "../shared/with-node.ts";

/** @throws CommandError, CredentialsError, TransportError, NodeError, IntegrityError */
export async function rotateTenantCommand(name: string, options: NodeOptions): Promise<void> {
  const { epoch, intervalMs } = await withNodeAndKek({ ...options, tenant: options.tenant ?? name }, async (client, { tenant, kek }) => {
    if (tenant !== name) {
      throw new CommandError(ExitStatus.notAuthorized, `these are the credentials of tenant ${tenant}, not of ${name}`);
    }
    const { keys } = (await client.call("keyList", {})).answer;
    if (keys.length === 0) {
      throw new CommandError(
        ExitStatus.failure,
        `tenant ${name} has no data key yet: its first mount makes one, and there is nothing to rotate`,
      );
    }
    if (keys.length >= KEY_EPOCHS_MAX)
      throw new CommandError(ExitStatus.failure, `tenant ${name} has ${keys.length} data keys, and no more are possible`);
    // Opens all of them: an epoch that nobody could open must not be followed by one more.
    using ring = KeyRing.open(kek, keys);
    const next = KeyRing.newDataKey(kek, ring.current.epoch + 1);
    await client.call("keyPut", next).catch((error: unknown) => {
      if (!(error instanceof NodeError && error.code === "exists")) throw error;
      throw new CommandError(ExitStatus.failure, `somebody else has just begun epoch ${next.epoch} of tenant ${name}: nothing was changed`);
    });
    const { policy } = (await client.call("policyGet", { namespaces: [], workload: "" })).answer;
    return { epoch: next.epoch, intervalMs: policy.key_health_interval_ms };
  });
  process.stdout.write(
    `kiseki: tenant ${name} has a new data key, epoch ${epoch}: mounts use it for all that they write from now on, those that run within ${Math.ceil(intervalMs / 1_000)} s\n`,
  );
}
