/** Which port of which RDMA device to use, and by which of its addresses (GIDs): from the kernel's folders below /sys/class/infiniband. */
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";

const SYS = "/sys";
const PROC_STATUS = "/proc/self/status";
/** Entries of a port's GID table that are looked at; tables have 16 to 256. */
const GIDS_MAX = 256;
/** In one range of a list: more than any machine has. */
const CPUS_MAX = 65_536;
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
  /** It hangs on memory that this process's processors are next to, or the machine has only one kind. */
  readonly isNear: boolean;
}

/**
 * The ports that are up, best first: InfiniBand before RoCE, then the near ones, then the fastest. RoCE ports are used by a RoCE v2 address (it is
 * routed, v1 is not), of IPv4 where there is one; InfiniBand ports by their first.
 * @param source an IP address, or a device's name with or without :PORT, that a port must have; null: any
 */
export function rdmaPorts(source: string | null, sys = SYS, status = PROC_STATUS): RdmaPort[] {
  const root = join(sys, "class", "infiniband");
  const near = ownNumaNodes(sys, status);
  const found: RdmaPort[] = [];
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
      // -1: of none in particular.
      const isNear = near === null || !(numaNode >= 0) || near.has(numaNode);
      found.push({ device, port: Number(name), gidIndex: gid, linkLayer, gbps, isNear });
    }
  }
  return found.sort((a, b) => comparePorts(b, a) || a.device.localeCompare(b.device, "en", { numeric: true }) || a.port - b.port);
}

/** As `rdmaPorts` takes it: mlx5_0, mlx5_0:2. */
export function portName({ device, port }: Pick<RdmaPort, "device" | "port">): string {
  return port === 1 ? device : `${device}:${port}`;
}

/** Above 0: `a` is the better one. */
export function comparePorts(a: RdmaPort, b: RdmaPort): number {
  const isInfiniBand = ({ linkLayer }: RdmaPort) => Number(linkLayer === "InfiniBand");
  return isInfiniBand(a) - isInfiniBand(b) || Number(a.isNear) - Number(b.isNear) || a.gbps - b.gbps;
}

/** The NUMA nodes that have one of the processors that this process may run on; null: not known. */
function ownNumaNodes(sys: string, status: string): Set<number> | null {
  const allowed = cpuList(/^Cpus_allowed_list:\s*(\S+)/m.exec(text(status))?.[1] ?? "");
  const nodes = new Set<number>();
  const folder = join(sys, "devices", "system", "node");
  for (const name of list(folder)) {
    const node = /^node(\d+)$/.exec(name)?.[1];
    if (node === undefined) continue;
    for (const cpu of cpuList(text(join(folder, name, "cpulist")))) if (allowed.has(cpu)) nodes.add(Number(node));
  }
  return nodes.size === 0 ? null : nodes;
}

/** As the kernel writes them: 0-3,8. */
function cpuList(text: string): Set<number> {
  const cpus = new Set<number>();
  // A node of memory alone (HBM, CXL) has none.
  for (const part of text.split(",").filter((part) => part !== "")) {
    const [first = Number.NaN, last = first] = part.split("-").map(Number);
    for (let cpu = first; cpu <= Math.min(last, first + CPUS_MAX); cpu++) cpus.add(cpu);
  }
  return cpus;
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
