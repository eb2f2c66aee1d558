/** A Worker that moves chunks: its own connection, its own keys, the shared arena. TransferPool starts it. */
import { KeyRing, wipeMaterial } from "../crypto/key-ring.ts";
import { ChunkPipeline } from "./chunk-pipeline.ts";
import { DataConnection } from "./data-connection.ts";
import { TransferCounts } from "./transfer-counts.ts";
import { type FromWorker, type Job, packError, type StartMessage, type ToWorker } from "./worker-messages.ts";

declare const self: Worker;

interface Running {
  readonly keys: KeyRing;
  readonly connection: DataConnection;
  readonly pipeline: ChunkPipeline;
}

let running: Running | null = null;

function say(message: FromWorker): void {
  self.postMessage(message);
}

function start({ arena, keys: material, node, limits, counts }: StartMessage): Running {
  const keys = KeyRing.fromMaterial(material);
  wipeMaterial(material);
  const connection = new DataConnection(node, new TransferCounts(counts), (message) => say({ kind: "log", message }));
  const buffers = { large: limits.put, small: limits.small };
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
  } else if (data.kind === "keys") {
    running?.keys.addMaterial(data.keys);
    wipeMaterial(data.keys);
  } else {
    void close();
  }
};
