/** A Worker that moves chunks: its own connection, its own keys, the shared arena. TransferPool starts it. */
import { KeyRing } from "../crypto/key-ring.ts";
import { DataConnection } from "./chunk-node.ts";
import { ChunkPipeline } from "./chunk-pipeline.ts";
import { type FromWorker, type Job, packError, type StartMessage, type ToWorker } from "./worker-messages.ts";

declare const self: Worker;

interface Running {
  readonly keys: KeyRing;
  readonly connection: DataConnection;
  readonly pipeline: ChunkPipeline;
}

/**
 * Blocks moved between garbage collections: 32 MiB. Bun gives each piece of received bytes in a buffer of its own, outside the heap whose size
 * makes the engine collect; left alone, the process grew to 900 MiB while it read at full speed, with this to 460.
 */
const BLOCKS_PER_COLLECTION = 512;

let running: Running | null = null;
let blocksMoved = 0;

function collectGarbage(blocks: number): void {
  blocksMoved += blocks;
  if (blocksMoved < BLOCKS_PER_COLLECTION) return;
  blocksMoved = 0;
  Bun.gc(true);
}

function say(message: FromWorker): void {
  self.postMessage(message);
}

function start({ arena, keys: material, node, buffers }: StartMessage): Running {
  const keys = KeyRing.fromMaterial(material);
  for (const { key } of material.keys) key.fill(0);
  const connection = new DataConnection(node, (message) => say({ kind: "log", message }));
  return { keys, connection, pipeline: new ChunkPipeline({ arena, keys, node: connection.node, buffers }) };
}

async function run(id: number, job: Job, timeoutMs: number): Promise<void> {
  try {
    if (running === null) throw new Error("a job came before the start");
    if (job.kind === "put") {
      say({ kind: "done", id, ref: await running.pipeline.put(job.cells, job.bytes, timeoutMs) });
    } else {
      await running.pipeline.get(job.ref, job.firstBlock, job.cells, timeoutMs);
      say({ kind: "done", id, ref: null });
    }
    collectGarbage(job.cells.length);
  } catch (error) {
    say({ kind: "failed", id, error: packError(error) });
  }
}

async function close(): Promise<void> {
  await running?.connection.close();
  running?.keys.wipe();
  running = null;
  say({ kind: "closed" });
}

self.onmessage = ({ data }: MessageEvent<ToWorker>): void => {
  if (data.kind === "job") {
    void run(data.id, data.job, data.timeoutMs);
  } else if (data.kind === "start") {
    running = start(data);
    say({ kind: "ready" });
  } else {
    void close();
  }
};
