/** What `kiseki tenant rotate` does; loaded only for it. */
import type { Credentials } from "../../crypto/credentials.ts";
import { FIRST_EPOCH } from "../../crypto/epoch-keys.ts";
import { KeyRing } from "../../crypto/key-ring.ts";
import { CommandError, ExitStatus } from "../../process/failure.ts";
import { NodeError } from "../../protocol/errors.ts";
import { KEY_EPOCHS_MAX } from "../../protocol/limits.ts";
import type { NodeClient } from "../../transport/node-client.ts";
import { withNodeAndKek } from "../shared/with-node.ts";
import type { TenantRotateOptions } from "./options.ts";
import { parseRate, rewrite } from "./rewrite.ts";

/** @throws CommandError, CredentialsError, TransportError, NodeError, IntegrityError */
export async function rotateTenantCommand(name: string, options: TenantRotateOptions): Promise<void> {
  if (options.rewrite !== true && options.json === true) throw new CommandError(ExitStatus.usage, "--json goes with --rewrite");
  parseRate(options.rate);
  await withNodeAndKek({ ...options, tenant: options.tenant ?? name }, async (client, credentials) => {
    if (credentials.tenant !== name) {
      throw new CommandError(ExitStatus.notAuthorized, `these are the credentials of tenant ${credentials.tenant}, not of ${name}`);
    }
    const { epoch, isNewKey } = await chooseEpoch(client, credentials, options.rewrite === true);
    const { policy } = (await client.call("policyGet", { namespaces: [], workload: "" })).answer;
    const intervalMs = policy.key_health_interval_ms;
    if (options.rewrite === true) return await rewrite(credentials, options, { isNewKey, intervalMs });
    process.stdout.write(
      `kiseki: tenant ${name} has a new data key, epoch ${epoch}: mounts use it for all that they write from now on, those that run within ${Math.ceil(intervalMs / 1_000)} s\n`,
    );
  });
}

/** Begins a new epoch; with `isRewrite` only where there is none but the first, since a rewrite that was interrupted goes on with the same command. */
async function chooseEpoch(
  client: NodeClient,
  { tenant, kek }: Pick<Credentials, "tenant" | "kek">,
  isRewrite: boolean,
): Promise<{ epoch: number; isNewKey: boolean }> {
  const { keys } = (await client.call("keyList", {})).answer;
  if (keys.length === 0) {
    throw new CommandError(
      ExitStatus.failure,
      `tenant ${tenant} has no data key yet: its first mount makes one, and there is nothing to rotate`,
    );
  }
  // Opens all of them: an epoch that nobody could open must not be followed by one more.
  using ring = KeyRing.open(kek, keys);
  const newest = ring.current.epoch;
  if (isRewrite && newest > FIRST_EPOCH) return { epoch: newest, isNewKey: false };
  if (keys.length >= KEY_EPOCHS_MAX)
    throw new CommandError(ExitStatus.failure, `tenant ${tenant} has ${keys.length} data keys, and no more are possible`);
  const next = KeyRing.newDataKey(kek, newest + 1);
  await client.call("keyPut", next).catch((error: unknown) => {
    if (!(error instanceof NodeError && error.code === "exists")) throw error;
    throw new CommandError(ExitStatus.failure, `somebody else has just begun epoch ${next.epoch} of tenant ${tenant}: nothing was changed`);
  });
  return { epoch: next.epoch, isNewKey: true };
}
