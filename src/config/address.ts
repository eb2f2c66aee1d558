/** HOST:PORT, as --data-addr takes it. */

export interface Address {
  readonly host: string;
  readonly port: number;
}

/** The port that `kiseki serve` listens on unless told otherwise. */
const PORT_DEFAULT = 9100;

/** "node1:9100", "10.0.0.1", "[fd00::1]:9100". Without a port: 9100. null where it is none of these. */
function parseAddress(text: string): Address | null {
  const match = /^(?:\[([0-9A-Fa-f:.%\w]+)\]|([A-Za-z0-9](?:[A-Za-z0-9._-]*)))(?::(\d{1,5}))?$/.exec(text);
  if (match === null) return null;
  const port = match[3] === undefined ? PORT_DEFAULT : Number(match[3]);
  const host = match[1] ?? match[2] ?? "";
  return port >= 1 && port <= 65_535 ? { host, port } : null;
}

/** A comma-separated list of at least one address; null where one of them is none. */
export function parseAddresses(text: string): Address[] | null {
  const addresses = text.split(",").map((part) => parseAddress(part.trim()));
  return addresses.every((address) => address !== null) ? addresses : null;
}

export function formatAddress(address: Address): string {
  return `${address.host.includes(":") ? `[${address.host}]` : address.host}:${address.port}`;
}
