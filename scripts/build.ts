/** Bundles src/main.ts and its Workers into dist/kiseki. Run by scripts/build, which has installed what is needed. */
import { copyFileSync, existsSync, mkdirSync, realpathSync, renameSync, rmSync, statSync } from "node:fs";
import { join } from "node:path";

const REPO = join(import.meta.dir, "..");
const OUTPUT = join(REPO, "dist/kiseki");

/** A Worker's file must be an entry point of its own. Inside the binary it is /$bunfs/root/<path below src>, with .js for .ts. */
const WORKERS = [
  "src/transfer/chunk-worker.ts",
  "src/mount/notifier-worker.ts",
  "src/cache/disk/disk-worker.ts",
  "src/node/fabric/rdma-worker.ts",
];

/** Where the build machine keeps libfuse3 (Debian multiarch, Fedora, plain). */
const LIBRARY_FOLDERS = [
  "/usr/lib/x86_64-linux-gnu",
  "/lib/x86_64-linux-gnu",
  "/usr/lib/aarch64-linux-gnu",
  "/lib/aarch64-linux-gnu",
  "/usr/lib64",
  "/usr/lib",
];

/** Copies the machine's libfuse3 to dist/, from where src/mount/libfuse-path.ts embeds it. */
function copyLibfuse(): void {
  const found = LIBRARY_FOLDERS.map((folder) => join(folder, "libfuse3.so.3")).find((path) => existsSync(path));
  if (found === undefined) {
    throw new Error(`no libfuse3.so.3 in ${LIBRARY_FOLDERS.join(", ")}: install the package libfuse3-3`);
  }
  copyFileSync(realpathSync(found), join(REPO, "dist/libfuse3.so.3"));
}

function compile(): void {
  const aside = `${OUTPUT}.new`;
  const result = Bun.spawnSync(
    [
      process.execPath,
      "build",
      "--compile",
      "--minify",
      "--bytecode",
      // Stacks in the log name source files and lines; 1.3 MB.
      "--sourcemap",
      "--format=esm",
      // A binary that runs in any folder must not take settings, or code to preload, from there.
      "--no-compile-autoload-dotenv",
      "--no-compile-autoload-bunfig",
      // Fixes the Workers' paths inside the binary, whatever the list of entry points.
      "--root",
      "src",
      "src/main.ts",
      ...WORKERS.filter((path) => existsSync(join(REPO, path))),
      "--outfile",
      aside,
    ],
    { cwd: REPO, stdout: "pipe", stderr: "pipe" },
  );
  if (!result.success) {
    throw new Error(`bun build failed:\n${result.stdout.toString()}${result.stderr.toString()}`);
  }
  // The binary holds them already.
  for (const map of new Bun.Glob("*.map").scanSync(join(REPO, "dist"))) rmSync(join(REPO, "dist", map));
  // A running kiseki keeps the old file; it could not be overwritten in place (ETXTBSY).
  renameSync(aside, OUTPUT);
}

/** The best of five runs, in ms: what the binary costs, without the machine's noise. */
function startTimeMs(): number {
  let best = Number.POSITIVE_INFINITY;
  for (let run = 0; run < 5; run++) {
    const begin = performance.now();
    const result = Bun.spawnSync([OUTPUT, "--version"]);
    best = Math.min(best, performance.now() - begin);
    if (!result.success) throw new Error(`${OUTPUT} --version failed:\n${result.stderr.toString()}`);
  }
  return best;
}

try {
  mkdirSync(join(REPO, "dist"), { recursive: true });
  copyLibfuse();
  compile();
  const sizeMib = statSync(OUTPUT).size / 2 ** 20;
  console.log(`dist/kiseki: ${sizeMib.toFixed(1)} MiB, starts in ${startTimeMs().toFixed(0)} ms (kiseki --version)`);
} catch (error) {
  console.error(`build: ${error instanceof Error ? error.message : String(error)}`);
  process.exit(1);
}
