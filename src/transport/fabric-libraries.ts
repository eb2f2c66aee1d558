/** Endpoints by what the protocol calls a provider: libfabric's, and queue pairs of ibverbs. Each library is loaded when it is first asked for. */
import { isIP } from "node:net";
import type { FabricDevice, FabricEndpoint } from "../../ffi/fabric-endpoint.ts";
import { Ibverbs } from "../../ffi/ibverbs/ibverbs.ts";
import { comparePorts, portName, rdmaPorts } from "../../ffi/ibverbs/ports.ts";
import { RcEndpoint } from "../../ffi/ibverbs/rc-endpoint.ts";
import { Libfabric } from "../../ffi/libfabric/libfabric.ts";
import { fabricDevices, RdmEndpoint } from "../../ffi/libfabric/rdm-endpoint.ts";
import type { FabricProvider } from "../protocol/fabric-providers.ts";

/** Ports of one machine that are used. */
const PORTS_MAX = 8;

/**
 * Where on this machine an endpoint may be, best first; those with the same number are equally good.
 * @param source an address or device that is named; null: any
 */
export function fabricPlaces({ library }: FabricProvider, source: string | null): { source: string | null; order: number }[] {
  if (library === "libfabric") return [{ source, order: 0 }];
  const ports = rdmaPorts(source).slice(0, PORTS_MAX);
  return ports.map((port) => ({
    // With its port, always: the device's name alone stands for all of its ports.
    source: `${port.device}:${port.port}`,
    order: ports.findIndex((other) => comparePorts(other, port) === 0),
  }));
}

/** libfabric is told addresses and devices (domains) apart. */
function placeOf(source: string | null): { source: string | null; domain: string | null } {
  return source === null || isIP(source) !== 0 ? { source, domain: null } : { source: null, domain: source };
}

export interface FabricWant {
  /** An address or device of this machine; null: any. */
  readonly source: string | null;
  /** Who starts transfers (the node), or whose memory they go to. */
  readonly role: "initiator" | "target";
  /** At a time. */
  readonly operations: number;
}

export class FabricLibraries {
  readonly #wanted: readonly FabricProvider[];
  #libfabric: Libfabric | null = null;
  #ibverbs: Ibverbs | null = null;

  /** @param wanted those that will be asked for: what they need of the environment is set before anything is asked of libfabric, which reads it once */
  constructor(wanted: readonly FabricProvider[]) {
    this.#wanted = wanted;
  }

  #openLibfabric(): Libfabric {
    if (this.#libfabric === null) {
      const lib = new Libfabric();
      for (const { environment } of this.#wanted) lib.setEnvironment(environment);
      this.#libfabric = lib;
    }
    return this.#libfabric;
  }

  /** @throws Error with the reason: the library is missing or too old, there is no such device, memory can't be pinned */
  openEndpoint(provider: FabricProvider, { source, role, operations }: FabricWant): FabricEndpoint {
    if (provider.library === "libfabric")
      return new RdmEndpoint(this.#openLibfabric(), { provider: provider.name, ...placeOf(source), operations });
    const [port] = rdmaPorts(source);
    if (port === undefined) throw new Error(`no RDMA port is up${source === null ? "" : ` that is, or has, ${source}`}`);
    this.#ibverbs ??= new Ibverbs();
    return new RcEndpoint(this.#ibverbs, { port, role, operations });
  }

  /** What could be opened; none: nothing. @throws Error when the library is missing or too old */
  devices(provider: FabricProvider, source: string | null): FabricDevice[] {
    if (provider.library === "libfabric") {
      const { source: address, domain } = placeOf(source);
      return fabricDevices(this.#openLibfabric(), provider.name, address).filter((device) => domain === null || device.domain === domain);
    }
    this.#ibverbs ??= new Ibverbs();
    const known = this.#ibverbs.devices();
    return rdmaPorts(source)
      .filter(({ device }) => known.includes(device))
      .map((port) => ({ provider: provider.name, fabric: port.linkLayer, domain: portName(port) }));
  }
}
