/**
 * What bodies can be moved by, libfabric's providers and ibverbs, as kiseki uses them: what each is called in options, in which order they are tried,
 * and what is different with it. What a provider says of itself in fi_info (memory registration) is not here: RdmEndpoint reads it there.
 *
 * shm is left out: with libfabric 1.17 a process that goes away takes the one at the other end with it (a segmentation fault in the library).
 */
import { isIP } from "node:net";

export interface FabricProvider {
  /** libfabric's: as in fi_info(7). */
  readonly name: string;
  readonly library: "libfabric" | "ibverbs";
  /** In `-o transport=`; libfabric:NAME names any of them. */
  readonly option: string | null;
  /** Used when nobody names it, where the machine has the device. */
  readonly isAutomatic: boolean;
  /** A folder of the kernel that has an entry for each device; null: needs none. */
  readonly devices: string | null;
  /**
   * Its endpoints are bound to --fabric-interface and, where that is not given, "connection": to the address that TLS uses; "any": to the best device.
   * "none": the provider chooses.
   */
  readonly address: "connection" | "any" | "none";
  /** An endpoint is closed so long after it was used last, in milliseconds, and asked meanwhile. */
  readonly settleMs: number;
  /** Set before the library is used, unless the environment says otherwise already. */
  readonly environment: Readonly<Record<string, string>>;
}

/** Best first. */
export const FABRIC_PROVIDERS: readonly FabricProvider[] = [
  {
    name: "cxi",
    library: "libfabric",
    option: "cxi",
    isAutomatic: true,
    devices: "/sys/class/cxi",
    address: "none",
    // Transfers go on when the matching hardware runs out of room; several processes of a node share it.
    settleMs: 0,
    environment: { FI_CXI_RX_MATCH_MODE: "hybrid" },
  },
  {
    // InfiniBand and RoCE without libfabric between: queue pairs of our own.
    name: "verbs",
    library: "ibverbs",
    option: "verbs",
    isAutomatic: true,
    devices: "/sys/class/infiniband",
    address: "any",
    settleMs: 0,
    environment: {},
  },
  {
    name: "verbs;ofi_rxm",
    library: "libfabric",
    option: null,
    isAutomatic: true,
    devices: "/sys/class/infiniband",
    address: "connection",
    // libfabric 1.17 crashes where an endpoint is closed whose connections are still being made; it looks after them every 10 ms.
    settleMs: 100,
    // Without it fi_enable is EINVAL on software RoCE: it sizes shared queues by the number of peers.
    environment: { FI_UNIVERSE_SIZE: "16", IBV_FORK_SAFE: "1" },
  },
  {
    name: "net",
    library: "libfabric",
    option: null,
    isAutomatic: false,
    devices: null,
    address: "connection",
    settleMs: 0,
    environment: {},
  },
  {
    name: "tcp;ofi_rxm",
    library: "libfabric",
    option: null,
    isAutomatic: false,
    devices: null,
    address: "connection",
    settleMs: 100,
    environment: {},
  },
];

/** "auto": what the machine has a device for; "tcp": no fabric; else the providers to use, best first. */
export type TransportChoice = "auto" | "tcp" | readonly string[];

/** What an endpoint is to be bound to. @param named by --fabric-interface @param connection the address that TLS uses here; null: not known */
export function sourceOf({ address }: FabricProvider, named: string | null, connection: string | null): string | null {
  if (address === "none") return null;
  return named ?? (address === "connection" ? connection : null);
}

export const INTERFACE_EXPECTED = "an IP address of this machine, or a device's name, such as mlx5_0";

/** What --fabric-interface may be: an IP address; a device as /sys/class/infiniband or libfabric names it, an RDMA device with :PORT if need be. */
export function isFabricInterface(text: string): boolean {
  return isIP(text) !== 0 || /^[A-Za-z][\w.-]{0,62}(:\d{1,3})?$/.test(text);
}

const LIBFABRIC_PREFIX = "libfabric:";
const LIBFABRIC_PROVIDERS = FABRIC_PROVIDERS.filter(({ library }) => library === "libfabric").map(({ name }) => name);
export const TRANSPORT_EXPECTED = `auto, tcp, cxi, verbs or libfabric:PROVIDER, with ${LIBFABRIC_PROVIDERS.join(", ")} for PROVIDER`;

/** A word of `-o transport=` and `--transports`: the provider's name; null: none. */
function providerOf(word: string): string | null {
  const short = FABRIC_PROVIDERS.find(({ option }) => option === word);
  return short?.name ?? LIBFABRIC_PROVIDERS.find((name) => LIBFABRIC_PREFIX + name === word) ?? null;
}

/** One word, or several with commas; tcp is always there, and may be named beside others. null: not one of them. */
export function parseTransports(text: string): TransportChoice | null {
  if (text === "auto" || text === "tcp") return text;
  const providers = text
    .split(",")
    .map((word) => word.trim())
    .filter((word) => word !== "tcp")
    .map(providerOf);
  if (providers.length === 0 || new Set(providers).size < providers.length) return null;
  const known = providers.filter((provider) => provider !== null);
  return known.length === providers.length ? known : null;
}

/** The providers to try, best first. `hasDevices`: whether a folder of the kernel has entries. */
export function providersOf(choice: TransportChoice, hasDevices: (folder: string) => boolean): FabricProvider[] {
  if (choice === "tcp") return [];
  if (choice === "auto")
    return FABRIC_PROVIDERS.filter(({ isAutomatic, devices }) => isAutomatic && devices !== null && hasDevices(devices));
  return choice.flatMap((name) => fabricProvider(name) ?? []);
}

export function fabricProvider(name: string): FabricProvider | null {
  return FABRIC_PROVIDERS.find((provider) => provider.name === name) ?? null;
}
