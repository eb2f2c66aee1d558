/** The addresses of storage nodes, as --data-addr takes them. */

/** The port that `kiseki serve` listens on unless told otherwise. */
const PORT_DEFAULT = 9100;

/** "node1:9100", "10.0.0.1", "[fd00::1]:9100": the same with its port, 9100 where none is given. null where it is none of these. */
function normalizeAddress(text: string): string | null {
  const match = /^(\[[0-9A-Fa-f:.%\w]+\]|[A-Za-z0-9][A-Za-z0-9._-]*)(?::(\d{1,5}))?$/.exec(text);
  if (match === null) return null;
  const port = match[2] === undefined ? PORT_DEFAULT : Number(match[2]);
  return port >= 1 && port <= 65_535 ? `${match[1]}:${port}` : null;
}

/** A comma-separated list of at least one address, each as HOST:PORT; null where one of them is none. */
export function parseAddresses(text: string): string[] | null {
  const addresses = text.split(",").map((part) => normalizeAddress(part.trim()));
  return addresses.every((address) => address !== null) ? addresses : null;
}
