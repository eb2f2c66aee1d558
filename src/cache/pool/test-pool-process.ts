/**
 * A process that uses pools, for the tests: they run several of these at once, and kill them. What it does is its first argument; it prints
 * a line when it has come somewhere, and goes on when it reads one (or its standard input ends).
 */
import { closeSync, existsSync, openSync, readFileSync, unlinkSync, writeFileSync, writeSync } from "node:fs";
import { join } from "node:path";
import { KIB } from "../../protocol/limits.ts";
import { CacheFolder } from "./cache-folder.ts";
import { Pool, type PoolOwner } from "./pool.ts";
import { scrub } from "./scrub.ts";
import { bytesOnDisk } from "./space.ts";

/** What is to be found nowhere once a pool was wiped. */
export const MARKER = "kiseki plaintext marker ";

const LIMITS = { maxBytes: 64 * 2 ** 20 };
const CHUNK_ID = "c0ffee00".repeat(8);

function owner(kind: PoolOwner["kind"]): PoolOwner {
  return { tenant: "acme", cluster: "test", mode: "organic", kind, mountpoint: kind === "mount" ? "/mnt/data" : null };
}

/** Plaintext in each kind of file: some small, one of several blocks with a hole before it. */
async function fill(pool: Pool): Promise<void> {
  const block = Buffer.alloc(64 * KIB, MARKER);
  const put = async (path: string, bytes: Uint8Array, at = 0): Promise<void> => {
    const size = bytesOnDisk(bytes.length);
    if (!(await pool.space.reserveSoon(size))) throw new Error("no room");
    const fd = openSync(path, "w", 0o600);
    writeSync(fd, bytes, 0, bytes.length, at);
    closeSync(fd);
    pool.space.settle(size);
  };
  await put(pool.chunkPath(CHUNK_ID), block, 2 * block.length);
  await put(pool.chunkPath("ab".repeat(32)), block.subarray(0, 100));
  await put(join(pool.filesPath, "7-1"), Buffer.concat([block, block, block]));
  await put(join(pool.stagingPath, "1.manifest"), block);
}

/** What that takes up on the disk. */
export const FILLED_BYTES = 5 * 64 * KIB + 4 * KIB;

function check(pool: Pool): void {
  if (!readFileSync(join(pool.filesPath, "7-1"), "utf8").startsWith(MARKER)) throw new Error("a living pool was wiped");
  if (!existsSync(join(pool.path, "pool.lock"))) throw new Error("a living pool lost its lock file");
}

const lines = console[Symbol.asyncIterator]();
async function goOn(): Promise<void> {
  await lines.next();
}

async function serveHandOver(pool: Pool): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>();
  const server = Bun.serve({
    unix: join(pool.path, "control.sock"),
    fetch: async (request) => {
      pool.handOver(((await request.json()) as { socket: string }).socket);
      setTimeout(resolve, 5);
      return new Response("{}");
    },
  });
  console.log(pool.id);
  await promise;
  await server.stop(true);
}

function askDaemon(poolPath: string, socket: string): Promise<void> {
  const request = { unix: join(poolPath, "control.sock"), method: "POST", body: JSON.stringify({ socket }) };
  return fetch("http://pool/handover", request).then((response) => {
    if (!response.ok) throw new Error(`the daemon answered ${response.status}`);
  });
}

/** Writes and deletes files of many sizes until a line comes. Prints how many writes were refused, and done. */
async function churn(pool: Pool): Promise<void> {
  const kept: { path: string; bytes: number }[] = [];
  const counts = { refused: 0, written: 0 };
  let stopped = false;
  goOn().then(() => {
    stopped = true;
  });
  for (let i = 0; !stopped; i++) {
    const bytes = bytesOnDisk(1 + Math.floor(Math.random() ** 4 * 4 * KIB * KIB));
    if (pool.space.reserve(bytes)) {
      const path = join(pool.filesPath, String(i));
      writeFileSync(path, Buffer.alloc(bytes, MARKER));
      pool.space.settle(bytes);
      kept.push({ path, bytes });
      counts.written++;
    } else {
      counts.refused++;
      for (const { path, bytes } of kept.splice(0, Math.ceil(Math.random() * kept.length))) {
        unlinkSync(path);
        pool.space.release(bytes);
      }
    }
    await Bun.sleep(0);
  }
  console.log(JSON.stringify(counts));
}

async function main(what: string, path: string, argument: string): Promise<void> {
  const folder = CacheFolder.open(path);
  switch (what) {
    case "hold": {
      const pool = await Pool.create(folder, owner("mount"), LIMITS);
      await fill(pool);
      console.log(pool.id);
      await goOn();
      check(pool);
      await pool.close({ wipe: true });
      return;
    }
    case "create-often":
      for (let i = 0; i < Number(argument); i++) {
        const pool = await Pool.create(folder, owner("mount"), LIMITS);
        await fill(pool);
        await Bun.sleep(Math.random() * 4);
        check(pool);
        const report = await pool.close({ wipe: true });
        if (report?.failed !== 0) throw new Error(JSON.stringify(report));
      }
      return;
    case "churn": {
      const { maxBytes, nodeLimitBytes } = JSON.parse(argument) as { maxBytes: number; nodeLimitBytes: number };
      const pool = await Pool.create(folder, owner("mount"), { maxBytes, nodeLimitBytes: () => nodeLimitBytes });
      await churn(pool);
      await pool.close({ wipe: true });
      return;
    }
    case "stage": {
      const pool = await Pool.create(folder, owner("stage"), LIMITS);
      await fill(pool);
      return serveHandOver(pool);
    }
    case "adopt": {
      const pool = await Pool.adopt(folder, argument, owner("mount"), LIMITS, askDaemon);
      check(pool);
      console.log(pool.space.usedBytes);
      await goOn();
      check(pool);
      await pool.close({ wipe: true });
      return;
    }
    case "scrub":
      console.log(JSON.stringify(await scrub(folder)));
      return;
    case "scrub-often": {
      let stopped = false;
      goOn().then(() => {
        stopped = true;
      });
      let wiped = 0;
      while (!stopped) {
        const pools = await scrub(folder);
        const failed = pools.find(({ state }) => state === "failed");
        if (failed !== undefined) throw new Error(JSON.stringify(failed));
        wiped += pools.filter(({ state }) => state === "wiped").length;
        await Bun.sleep(0);
      }
      console.log(wiped);
      return;
    }
    default:
      throw new Error(`not known: ${what}`);
  }
}

if (import.meta.main) {
  await main(process.argv[2] ?? "", process.argv[3] ?? "", process.argv[4] ?? "");
  process.exit(0);
}
