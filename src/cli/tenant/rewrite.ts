/** What `kiseki tenant rotate --rewrite` does when the key is there; loaded only for it. */
import { type Options, type Params, SingleBar } from "cli-progress";
import { type RewriteProgress, type RewriteResult, rewriteTenant } from "../../client/rewrite-tenant.ts";
import { parseAddresses } from "../../config/address.ts";
import { parseSize } from "../../config/units.ts";
import type { Credentials } from "../../crypto/credentials.ts";
import { createLogger } from "../../log.ts";
import { CommandError, ExitStatus } from "../../process/failure.ts";
import { untilStopped } from "../../process/stop-signal.ts";
import { humanBytes, humanCount } from "../shared/quantities.ts";
import type { TenantRotateOptions } from "./options.ts";

/** Of what could not be moved, so much is named in words; --json names all. */
const NAMED_MAX = 20;
/** A chunk a minute. */
const RATE_MIN_BYTES = 64 * 1024;
const BAR_WIDTH = 30;
/** Between two lines where there is no terminal. */
const LINE_INTERVAL_MS = 5_000;

/** Bytes a second. @throws CommandError */
export function parseRate(text: string): number {
  const rate = parseSize(text);
  if (rate !== null && rate >= RATE_MIN_BYTES) return rate;
  throw new CommandError(ExitStatus.usage, `--rate ${text}: expected bytes a second, 64K or more, such as 20M`);
}

/** `isNewKey`: the newest epoch was begun by this command. @throws CommandError, TransportError, NodeError, IntegrityError */
export async function rewrite(
  credentials: Credentials,
  options: TenantRotateOptions,
  { isNewKey, intervalMs }: { isNewKey: boolean; intervalMs: number },
): Promise<void> {
  const { tenant } = credentials;
  const stop = untilStopped();
  const reporter = options.json === true ? null : process.stderr.isTTY ? new BarReporter() : new LineReporter(tenant);
  const result = await rewriteTenant({
    dataAddresses: parseAddresses(options.dataAddr) ?? [],
    credentials,
    log: createLogger("error"),
    bytesPerSecond: parseRate(options.rate),
    takenUpAtMs: performance.now() + intervalMs,
    stop,
    onProgress: (progress) => reporter?.show(progress),
  }).finally(() => reporter?.end());
  if (options.json === true) process.stdout.write(`${JSON.stringify({ tenant, isNewKey, isInterrupted: stop.aborted, ...result })}\n`);
  else tell(tenant, result, isNewKey, stop.aborted);
  // All has been said.
  if (!result.isComplete) throw new CommandError(ExitStatus.failure, "");
}

function tell(
  tenant: string,
  { epoch, records, chunks, bytes, skipped, isComplete }: RewriteResult,
  isNewKey: boolean,
  isStopped: boolean,
): void {
  const moved = `${humanCount(records)} records and ${humanCount(chunks)} chunks (${humanBytes(bytes)}) moved to ${isNewKey ? "the new data key" : "the newest data key"}, epoch ${epoch}`;
  const left = isComplete
    ? "nothing is left under earlier ones but the hashes of names"
    : isStopped
      ? "interrupted: the same command goes on where it was"
      : skipped.length === 0
        ? "mounts kept writing under an earlier one: the same command goes on"
        : `${humanCount(skipped.length)} inode${skipped.length === 1 ? "" : "s"} skipped`;
  process.stdout.write(`kiseki: tenant ${tenant}: ${moved}; ${left}\n`);
  for (const { namespace, inode, reason } of skipped.slice(0, NAMED_MAX)) {
    const why = reason === "damaged" ? "it is damaged, and stays as it is" : "it kept changing: the same command tries again";
    process.stderr.write(`kiseki: inode ${inode} of namespace ${namespace} was skipped: ${why}\n`);
  }
  if (skipped.length > NAMED_MAX)
    process.stderr.write(`kiseki: and ${humanCount(skipped.length - NAMED_MAX)} more: --json names them all\n`);
}

function progressText({ pass, inodes, inodesTotal, records, chunks, bytes, isWaiting }: RewriteProgress): string {
  const at = isWaiting
    ? "waiting for running mounts to take the key up"
    : `pass ${pass}: ${humanCount(inodes)} of ${humanCount(inodesTotal)} inodes`;
  return `${at}, ${humanCount(records)} records, ${humanCount(chunks)} chunks (${humanBytes(bytes)}) moved`;
}

class LineReporter {
  readonly #tenant: string;
  #nextMs = performance.now() + LINE_INTERVAL_MS;

  constructor(tenant: string) {
    this.#tenant = tenant;
  }

  show(progress: RewriteProgress): void {
    if (performance.now() < this.#nextMs) return;
    this.#nextMs = performance.now() + LINE_INTERVAL_MS;
    process.stderr.write(`kiseki: tenant ${this.#tenant}: ${progressText(progress)}\n`);
  }

  end(): void {}
}

class BarReporter {
  readonly #bar = new SingleBar({
    stream: process.stderr,
    barsize: BAR_WIDTH,
    hideCursor: true,
    format: (options: Options, { progress }: Params, { text }: { text?: string }) => {
      const full = Math.round((options.barsize ?? BAR_WIDTH) * progress);
      return `[${"#".repeat(full)}${".".repeat(BAR_WIDTH - full)}] ${text ?? ""}`;
    },
  });
  #started = false;

  show(progress: RewriteProgress): void {
    const total = Math.max(progress.inodesTotal, 1);
    // Files that were made since the pass began are looked at too.
    const done = Math.min(progress.inodes, total);
    const payload = { text: progressText(progress) };
    if (!this.#started) this.#bar.start(total, done, payload);
    this.#started = true;
    this.#bar.setTotal(total);
    this.#bar.update(done, payload);
  }

  end(): void {
    if (this.#started) this.#bar.stop();
  }
}
