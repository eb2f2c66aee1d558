/** The statistics of one mount as a table for people. */

import { latencyQuantile } from "../../cache/control/latency-histogram.ts";
import type { CacheStats } from "../../cache/control/stats.ts";
import { printable } from "../../process/printable.ts";
import { columns, type Row } from "../shared/columns.ts";
import { humanBytes, humanCount, humanSeconds, humanShare } from "../shared/quantities.ts";

function tiers({ reads, l1, l2, latency }: CacheStats): string[] {
  const all = reads.l1Hits + reads.l2Hits + reads.misses + reads.bypasses;
  const times = (which: keyof CacheStats["latency"]): Row => {
    const [median, tail] = [latencyQuantile(latency[which], 0.5), latencyQuantile(latency[which], 0.99)];
    return [median === null ? "-" : humanSeconds(median), tail === null ? "-" : humanSeconds(tail)];
  };
  const blocks = (count: number): Row => [humanCount(count), humanShare(count, all)];
  return columns([
    ["", "used", "of", "entries", "evicted", "blocks read", "share", "median <", "99 % <"],
    [
      "memory",
      humanBytes(l1.bytes),
      humanBytes(l1.maxBytes),
      humanCount(l1.entries),
      humanCount(l1.evictions),
      ...blocks(reads.l1Hits),
      ...times("l1"),
    ],
    l2 === null
      ? ["disk", "-", "-", "-", "-", ...blocks(reads.l2Hits), ...times("l2")]
      : [
          "disk",
          humanBytes(l2.bytes),
          humanBytes(l2.maxBytes),
          humanCount(l2.entries),
          humanCount(l2.evictions),
          ...blocks(reads.l2Hits),
          ...times("l2"),
        ],
    ["node (missed)", "", "", "", "", ...blocks(reads.misses), ...times("canonical")],
    ["node (bypassed)", "", "", "", "", ...blocks(reads.bypasses)],
  ]);
}

function counts(values: Readonly<Record<string, number>>): string {
  const said = Object.entries(values).filter(([, count]) => count > 0);
  return said.length === 0 ? "none" : said.map(([name, count]) => `${humanCount(count)} ${name.replaceAll("_", " ")}`).join(", ");
}

function disk(l2: CacheStats["l2"], mode: CacheStats["mode"]): string[] {
  if (l2 === null) return [mode === "bypass" ? "disk      not used: the mode is bypass" : "disk      not used"];
  const lines = [
    `disk      ${humanBytes(l2.pinnedBytes)} pinned; ${humanCount(l2.insertions)} inserted, ${humanCount(l2.dropped)} dropped, ${humanCount(l2.refused)} refused`,
    `faults    ${counts(l2.faults)}`,
  ];
  return l2.outOfUse === null ? lines : [...lines, `OUT OF USE for this session: ${l2.outOfUse}`];
}

function policyValue(name: string, value: unknown): string {
  if (name.endsWith("_bytes") && typeof value === "number") return humanBytes(value);
  return Array.isArray(value) ? value.join("|") : String(value);
}

function policy(values: CacheStats["policy"]): string[] {
  const said = Object.entries(values).filter(([, value]) => value !== null && value !== undefined);
  return said.length === 0 ? [] : ["policy", ...columns(said.map(([name, value]) => [`  ${name}`, policyValue(name, value)]))];
}

function datasets(staged: CacheStats["datasets"]): string[] {
  if (staged.length === 0) return [];
  const rows = staged.map(({ path, state, files, bytes }) => [
    `  ${printable(path)}`,
    state,
    `${humanCount(files)} files`,
    humanBytes(bytes),
  ]);
  return ["staged", ...columns(rows)];
}

function transport({ fabric, openPaths, fabricBytes, tlsBytes, fallbacks }: CacheStats["transport"]): string {
  if (fabric === null) return `transport tcp (TLS): ${humanBytes(tlsBytes)}`;
  const state = openPaths > 0 ? "" : " (not in use now)";
  return `transport fabric ${fabric}${state}: ${humanBytes(fabricBytes)}; by TLS ${humanBytes(tlsBytes)}, ${humanCount(fallbacks)} of them after the fabric had failed`;
}

export function statsTable(stats: CacheStats): string {
  const { mountpoint, tenant, mode, pid, pool } = stats;
  return [
    `${printable(mountpoint ?? "staging daemon")}  tenant ${tenant}, mode ${mode}, process ${pid}, since ${stats.startedAt}`,
    `pool      ${pool === null ? "none" : `${pool.id}  ${printable(pool.path)}`}`,
    ...tiers(stats),
    ...disk(stats.l2, mode),
    `wipes     ${counts(stats.wipes)}`,
    transport(stats.transport),
    ...(stats.node.lostSince === null
      ? []
      : [`node      NO STORAGE NODE since ${stats.node.lostSince}${stats.node.refusal === null ? "" : `: ${stats.node.refusal}`}`]),
    ...(stats.node.lies === 0 ? [] : [`node      ${humanCount(stats.node.lies)} ANSWERS THAT COULD NOT BE TRUE: see the log`]),
    ...policy(stats.policy),
    ...datasets(stats.datasets),
  ].join("\n");
}
