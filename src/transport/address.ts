/** "host:port" as users write it; IPv6 addresses in brackets: "[::1]:9100". */

export interface Address {
  readonly host: string;
  readonly port: number;
}

/** @throws RangeError when `text` is not such an address */
export function parseAddress(text: string): Address {
  const match = /^(?:\[([0-9a-fA-F:.]+(?:%[\w.-]+)?)\]|([^\s:[\]]+)):(\d{1,5})$/.exec(text);
  const host = match?.[1] ?? match?.[2];
  const port = Number(match?.[3]);
  if (host === undefined || !(port >= 1 && port <= 65_535)) throw new RangeError(`address: "${text}", expected HOST:PORT`);
  return { host, port };
}
