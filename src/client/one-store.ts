/** Several addresses are one store's, or the mount does not begin: changing over to other data would go unnoticed. */
import { TransportError } from "../protocol/errors.ts";
import type { AnswerOf } from "../protocol/messages.ts";
import { NodeClient, type NodeClientOptions } from "../transport/node-client.ts";

/** A node that doesn't answer by then is looked at when it is needed. */
const LOOK_TIMEOUT_MS = 2_000;

/**
 * Asks the nodes at all addresses which data they have.
 * @param first what the node said that is used
 * @throws TransportError "refused": one has other data
 */
export async function requireOneStore(link: Omit<NodeClientOptions, "role">, first: AnswerOf<"hello">): Promise<void> {
  if (link.addrs.length < 2) return;
  const instances = await Promise.all(link.addrs.map((addr) => instanceAt(link, addr)));
  const ours = first.store.instance.toHex();
  const here = link.addrs.find((_, i) => instances[i] === ours);
  const other = link.addrs.find((_, i) => instances[i] !== null && instances[i] !== ours);
  if (other === undefined) return;
  throw new TransportError(
    "refused",
    `${other} has other data than ${here ?? "the node that is used"}: give addresses of one storage node, or of one cluster's nodes, in --data-addr`,
  );
}

/** Hexadecimal; null: it does not answer, or not to us. */
async function instanceAt(link: Omit<NodeClientOptions, "role">, addr: string): Promise<string | null> {
  const client = new NodeClient({ ...link, addrs: [addr], role: "data", connectTimeoutMs: LOOK_TIMEOUT_MS });
  try {
    return (await client.connect()).store.instance.toHex();
  } catch {
    return null;
  } finally {
    await client.close();
  }
}
