/** What `kiseki gc` does; loaded only for it. */
import { resolve } from "node:path";
import { gcDataFolder } from "../../node/gc-folder.ts";
import { CommandError, ExitStatus } from "../../process/failure.ts";
import { CHUNK_PARTS } from "../../protocol/limits.ts";
import type { GcReport } from "../../protocol/messages.ts";
import { humanBytes, humanCount } from "../shared/quantities.ts";
import { withNode } from "../shared/with-node.ts";
import type { GcOptions } from "./options.ts";

const NOTHING: GcReport = { chunks: 0, bytes: 0, freedChunks: 0, freedBytes: 0, keptChunks: 0, keptBytes: 0 };

/** @throws CommandError, TransportError, NodeError */
export async function gcCommand(options: GcOptions): Promise<void> {
  const dryRun = options.dryRun === true;
  const { dataDir, dataAddr } = options;
  if (dataDir !== undefined) {
    const found = new Map<string, GcReport>();
    await gcDataFolder(resolve(dataDir), dryRun, (tenant, part) => found.set(tenant, sum(found.get(tenant) ?? NOTHING, part))).catch(
      failed,
    );
    for (const [tenant, report] of found) print(tenant, report, options);
    if (found.size === 0 && options.json !== true) process.stdout.write("no tenant has data\n");
    return;
  }
  if (dataAddr === undefined)
    throw new CommandError(ExitStatus.usage, "give --data-dir DIR of a stopped node, or --data-addr HOST:PORT of a running one");
  await withNode({ ...options, dataAddr }, async (client, tenant) => {
    let all = NOTHING;
    for (let part = 0; part < CHUNK_PARTS; part++) all = sum(all, (await client.call("gc", { part, dryRun })).answer);
    print(tenant, all, options);
  });
}

function failed(error: unknown): never {
  if (!(error instanceof Error)) throw error;
  throw new CommandError(ExitStatus.failure, error.message, { cause: error });
}

function sum(a: GcReport, b: GcReport): GcReport {
  return {
    chunks: a.chunks + b.chunks,
    bytes: a.bytes + b.bytes,
    freedChunks: a.freedChunks + b.freedChunks,
    freedBytes: a.freedBytes + b.freedBytes,
    keptChunks: a.keptChunks + b.keptChunks,
    keptBytes: a.keptBytes + b.keptBytes,
  };
}

function print(tenant: string, report: GcReport, { json, dryRun }: GcOptions): void {
  if (json === true) {
    process.stdout.write(`${JSON.stringify({ tenant, dryRun: dryRun === true, ...report })}\n`);
    return;
  }
  const amount = (chunks: number, bytes: number): string => `${humanCount(chunks)} chunks (${humanBytes(bytes)})`;
  const { chunks, bytes, freedChunks, freedBytes, keptChunks, keptBytes } = report;
  const kept =
    keptChunks === 0
      ? ""
      : `; ${amount(keptChunks, keptBytes)} that nothing refers to kept: clients may still commit them, or read them now`;
  process.stdout.write(
    `${tenant}: ${dryRun === true ? "would free" : "freed"} ${amount(freedChunks, freedBytes)} of ${amount(chunks, bytes)}${kept}\n`,
  );
}
