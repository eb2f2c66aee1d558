/** What `kiseki serve` does; loaded only for it. */
import { isIP } from "node:net";
import { resolve } from "node:path";
import { raiseOpenFilesLimit } from "../../../ffi/libc/rlimit.ts";
import { failureOf } from "../../client/failure-of.ts";
import type { LogLevel } from "../../config/mount-config.ts";
import { parseSeconds } from "../../config/units.ts";
import { createLogger, reopenLog } from "../../log.ts";
import { divideDescriptors } from "../../node/descriptors.ts";
import { StorageNode, type StorageNodeOptions } from "../../node/storage-node.ts";
import { verifyDataFolder } from "../../node/verify.ts";
import { CommandError, ExitStatus } from "../../process/failure.ts";
import { hasDevices } from "../../process/kernel-devices.ts";
import { whileServing } from "../../process/stop-signal.ts";
import { parseTransports, providersOf, sourceOf, TRANSPORT_EXPECTED } from "../../protocol/fabric-providers.ts";
import { tcpTls } from "../../transport/tcp-tls.ts";
import { VERSION } from "../../version.ts";
import { fabricInterfaceOf } from "../shared/fabric-interface.ts";
import type { ServeOptions } from "./options.ts";

/** "0.0.0.0:9100", "[::]:9100", ":9100"; unlike addresses to connect to, port 0 is allowed. */
function parseListen(text: string): { host: string; port: number } {
  const match = /^(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]*))(?::(\d{1,5}))?$/.exec(text);
  const port = Number(match?.[3] ?? 9100);
  if (match === null || port > 65_535)
    throw new CommandError(ExitStatus.usage, `--listen ${text}: expected HOST:PORT, such as 0.0.0.0:9100`);
  return { host: match[1] ?? (match[2] || "0.0.0.0"), port };
}

/** Errors of the node's start are complete sentences already; what is not foreseen keeps its stack. */
function startFailure(error: unknown, listen: string): unknown {
  if (!(error instanceof Error)) return error;
  const code = "code" in error ? error.code : undefined;
  if (code === "EADDRINUSE") return new CommandError(ExitStatus.failure, `${listen}: another program listens there; give another --listen`);
  if (code === "EADDRNOTAVAIL")
    return new CommandError(ExitStatus.failure, `${listen}: not an address of this machine; give another --listen`);
  if (code === "EACCES" && error.message.includes("listen")) return new CommandError(ExitStatus.failure, `${listen}: permission denied`);
  return failureOf(error).stack === undefined ? error : new CommandError(ExitStatus.failure, error.message, { cause: error });
}

async function verify(dataDir: string): Promise<void> {
  const report = await verifyDataFolder(dataDir, (line) => process.stdout.write(`${line}\n`)).catch((error: unknown) => {
    throw startFailure(error, "");
  });
  process.stdout.write(
    `kiseki: ${report.namespaces} namespaces, ${report.chunks} chunks, ${report.damages} damages, ${report.unreferenced} chunks that nothing refers to\n`,
  );
  if (report.damages > 0) throw new CommandError(ExitStatus.failure, `${dataDir}: ${report.damages} damages found, listed above`);
}

async function startNode(options: Omit<StorageNodeOptions, "descriptors">): Promise<StorageNode> {
  const limit = raiseOpenFilesLimit();
  const descriptors = divideDescriptors(limit);
  options.logger.debug({ limit, ...descriptors }, "open files");
  return await StorageNode.start({ ...options, descriptors });
}

/** The fabrics to open, each at the address that clients can reach. @throws CommandError */
function fabricsOf(options: ServeOptions, host: string): { name: string; source: string | null }[] {
  const { transports } = options;
  const choice = parseTransports(transports);
  if (choice === null) throw new CommandError(ExitStatus.usage, `--transports ${transports}: expected ${TRANSPORT_EXPECTED}`);
  const named = fabricInterfaceOf(options);
  const listening = isIP(host) === 0 || /^[0.:]+$/.test(host) ? null : host;
  return providersOf(choice, hasDevices).map((provider) => ({
    name: provider.name,
    source: sourceOf(provider, named, listening),
  }));
}

/** Returns when the node has stopped. @throws CommandError */
export async function serve(options: ServeOptions): Promise<void> {
  const dataDir = resolve(options.dataDir);
  const { host, port } = parseListen(options.listen);
  const gcGraceMs = parseSeconds(options.gcGrace);
  if (gcGraceMs === null) throw new CommandError(ExitStatus.usage, `--gc-grace ${options.gcGrace}: expected a time, such as 30m or 1h`);
  const fabrics = fabricsOf(options, host);
  if (options.verify === true) {
    await verify(dataDir);
    return;
  }
  // SQLite gives its files the mode 0644; nobody else has business here.
  process.umask(0o077);
  const logger = createLogger(options.logLevel as LogLevel, options.logFile === undefined ? null : resolve(options.logFile));
  const stopped = whileServing(() => reopenLog(logger));
  const restored = options.restored === true;
  const node = await startNode({ dataDir, host, port, gcGraceMs, restored, fabrics, version: VERSION, transport: tcpTls, logger }).catch(
    (error: unknown) => {
      throw startFailure(error, options.listen);
    },
  );
  process.stdout.write(`kiseki: serving on ${node.address}, data in ${dataDir}\n`);
  if (!stopped.aborted) await new Promise((resolve) => stopped.addEventListener("abort", resolve, { once: true }));
  logger.info({ reason: String(stopped.reason) }, "stopping");
  await node.stop();
}
