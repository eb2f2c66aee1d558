/** How far staging is, on standard error: a bar on a terminal, a line every few seconds otherwise. */

import { type Options, type Params, SingleBar } from "cli-progress";
import type { StageProgress } from "../../cache/control/control.ts";
import { printable } from "../../process/printable.ts";
import { humanBytes, humanCount, humanSeconds } from "../shared/quantities.ts";

/** Between two lines where there is no terminal. */
const LINE_INTERVAL_MS = 5_000;
/** The rate is that of about the last so many seconds. */
const RATE_WINDOW_SECONDS = 10;
const BAR_WIDTH = 30;

export interface StageReporter {
  show(progress: StageProgress): void;
  /** The bar is left as it is. */
  end(): void;
}

/** Bytes a second, of late. */
export class RateMeter {
  #last: { atMs: number; bytes: number } | null = null;
  #rate: number | null = null;

  /** @param atMs performance.now() */
  add(bytes: number, atMs: number): void {
    const last = this.#last;
    this.#last = { atMs, bytes };
    if (last === null || atMs <= last.atMs) return;
    const seconds = (atMs - last.atMs) / 1_000;
    const rate = Math.max(bytes - last.bytes, 0) / seconds;
    // Exponentially less weight for what is longer ago.
    const weight = this.#rate === null ? 1 : 1 - Math.exp(-seconds / RATE_WINDOW_SECONDS);
    this.#rate = (this.#rate ?? 0) * (1 - weight) + rate * weight;
  }

  /** null: nothing to tell from yet. */
  get bytesPerSecond(): number | null {
    return this.#rate;
  }
}

/** "1.2 GiB of 10.0 GiB (12 %), 340 of 1,000 files, 250 MiB/s, 35 s left". */
export function progressText(progress: StageProgress, bytesPerSecond: number | null): string {
  const { files, bytes, filesDone, bytesDone, walked } = progress;
  const share = walked && bytes > 0 ? ` (${Math.floor((100 * bytesDone) / bytes)} %)` : "";
  const parts = [
    `${humanBytes(bytesDone)} of ${humanBytes(bytes)}${walked ? share : " found so far"}`,
    `${humanCount(filesDone)} of ${humanCount(files)} files`,
  ];
  if (bytesPerSecond !== null) parts.push(`${humanBytes(bytesPerSecond)}/s`);
  if (walked && bytesPerSecond !== null && bytesPerSecond > 0) parts.push(`${humanSeconds((bytes - bytesDone) / bytesPerSecond)} left`);
  return parts.join(", ");
}

export function stageReporter(path: string): StageReporter {
  return process.stderr.isTTY ? new BarReporter() : new LineReporter(path);
}

class LineReporter implements StageReporter {
  readonly #path: string;
  readonly #rate = new RateMeter();
  #nextMs = 0;

  constructor(path: string) {
    this.#path = path;
  }

  show(progress: StageProgress): void {
    const now = performance.now();
    this.#rate.add(progress.bytesDone, now);
    if (now < this.#nextMs || progress.files === 0) return;
    this.#nextMs = now + LINE_INTERVAL_MS;
    process.stderr.write(`kiseki: staging ${printable(this.#path)}: ${progressText(progress, this.#rate.bytesPerSecond)}\n`);
  }

  end(): void {}
}

class BarReporter implements StageReporter {
  readonly #rate = new RateMeter();
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

  show(progress: StageProgress): void {
    this.#rate.add(progress.bytesDone, performance.now());
    const payload = { text: progressText(progress, this.#rate.bytesPerSecond) };
    // Files without data count too: an empty dataset is done when it is walked.
    const total = Math.max(progress.bytes, 1);
    if (!this.#started) this.#bar.start(total, progress.bytesDone, payload);
    this.#started = true;
    this.#bar.setTotal(total);
    this.#bar.update(progress.bytesDone, payload);
  }

  end(): void {
    if (this.#started) this.#bar.stop();
  }
}
