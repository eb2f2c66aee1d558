/** Which port of which RDMA device to use, and by which of its addresses (GIDs): from the kernel's folders below /sys/class/infiniband. */
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";

const SYS_INFINIBAND = "/sys/class/infiniband";
/** Entries of a port's GID table that are looked at; tables have 16 to 256. */
const GIDS_MAX = 256;
/** Some devices list it for ports that are not there. */
const NO_GID = "0000:0000:0000:0000:0000:0000:0000:0000";

export interface RdmaPort {
  readonly device: string;
  /** From 1. */
  readonly port: number;
  /** In the port's table. */
  readonly gidIndex: number;
  readonly linkLayer: "InfiniBand" | "Ethernet";
  /** What the port can do, in Gb/s; 0: not known. */
  readonly gbps: number;
  /** Of the processor that it hangs on; -1: of none in particular. */
  readonly numaNode: number;
}

/**
 * The ports that are up, best first: the one with the address `source`, then InfiniBand, then the fastest. RoCE ports are used by a RoCE v2 address (it is
 * routed, v1 is not), of IPv4 where there is one; InfiniBand ports by their first.
 * @param source an IP address, or a device's name with or without :PORT, that a port must have; null: any
 */
export function rdmaPorts(source: string | null, root = SYS_INFINIBAND): RdmaPort[] {
  const found: { port: RdmaPort; rank: number }[] = [];
  for (const device of list(root)) {
    for (const name of list(join(root, device, "ports"))) {
      const folder = join(root, device, "ports", name);
      if (!text(join(folder, "state")).includes("ACTIVE")) continue;
      const linkLayer = text(join(folder, "link_layer")) === "InfiniBand" ? "InfiniBand" : "Ethernet";
      const isNamed = source === device || source === `${device}:${name}`;
      const gid = chooseGid(folder, linkLayer, source === null || isNamed ? null : addressOf(source));
      if (gid === null) continue;
      const gbps = Number.parseFloat(text(join(folder, "rate"))) || 0;
      const numaNode = Number.parseInt(text(join(root, device, "device", "numa_node")), 10);
      const port = {
        device,
        port: Number(name),
        gidIndex: gid,
        linkLayer,
        gbps,
        numaNode: Number.isNaN(numaNode) ? -1 : numaNode,
      } as const;
      found.push({ port, rank: linkLayer === "InfiniBand" ? 1 : 0 });
    }
  }
  found.sort((a, b) => b.rank - a.rank || b.port.gbps - a.port.gbps || a.port.device.localeCompare(b.port.device, "en", { numeric: true }));
  return found.map(({ port }) => port);
}

function chooseGid(folder: string, linkLayer: RdmaPort["linkLayer"], wanted: string | null): number | null {
  const gids = list(join(folder, "gids"))
    .map(Number)
    .sort((a, b) => a - b)
    .slice(0, GIDS_MAX)
    .map((index) => ({
      index,
      gid: text(join(folder, "gids", String(index))),
      type: text(join(folder, "gid_attrs", "types", String(index))),
    }))
    .filter(({ gid }) => gid !== "" && gid !== NO_GID);
  if (linkLayer === "InfiniBand") return wanted === null ? (gids[0]?.index ?? null) : null;
  const rank = ({ gid, type }: (typeof gids)[number]) =>
    (type === "RoCE v2" ? 2 : 0) + (gid.startsWith("0000:0000:0000:0000:0000:ffff:") ? 1 : 0);
  const fitting = gids.filter(({ gid }) => wanted === null || gid === wanted);
  fitting.sort((a, b) => rank(b) - rank(a) || a.index - b.index);
  return fitting[0]?.index ?? null;
}

/** An IP address as a GID is written: eight groups of four digits. IPv4 is mapped (::ffff:a.b.c.d). Something else stays as it is, and fits nothing. */
function addressOf(address: string): string {
  if (/^\d+\.\d+\.\d+\.\d+$/.test(address)) {
    const hex = address.split(".").map((part) => Number(part).toString(16).padStart(2, "0"));
    return `0000:0000:0000:0000:0000:ffff:${hex[0]}${hex[1]}:${hex[2]}${hex[3]}`;
  }
  const [head = "", tail] = address.split("::");
  const groups = (part: string) => (part === "" ? [] : part.split(":"));
  const left = groups(head);
  const right = groups(tail ?? "");
  const middle = tail === undefined ? [] : Array.from({ length: Math.max(0, 8 - left.length - right.length) }, () => "0");
  return [...left, ...middle, ...right].map((group) => group.toLowerCase().padStart(4, "0")).join(":");
}

function list(folder: string): string[] {
  try {
    return readdirSync(folder).sort((a, b) => a.localeCompare(b, "en", { numeric: true }));
  } catch {
    return [];
  }
}

/** Empty where it can't be read: entries of a GID table that are not set answer EINVAL. */
function text(file: string): string {
  try {
    return readFileSync(file, "utf8").trim();
  } catch {
    return "";
  }
}
