/** Who a peer is: the tenant in its certificate, and nothing else. */
import { NodeError } from "../protocol/errors.ts";
import { TENANT_NAME_PATTERN } from "../protocol/limits.ts";
import type { Peer } from "../transport/transport.ts";

export interface PeerRole {
  readonly tenant: string;
  /** It holds the CA: it may set what a tenant may not set for itself. */
  readonly isOperator: boolean;
}

/** @throws NodeError "not_authorized" */
export function roleOfPeer(peer: Peer, cluster: string): PeerRole {
  return { tenant: tenantOfPeer(peer, cluster), isOperator: peer.sanUris.includes(`spiffe://${cluster}/operator`) };
}

/**
 * The tenant named by the one SAN URI spiffe://<cluster>/tenant/<name>.
 * @throws NodeError "not_authorized"
 */
function tenantOfPeer(peer: Peer, cluster: string): string {
  const prefix = `spiffe://${cluster}/tenant/`;
  const names = peer.sanUris.filter((uri) => uri.startsWith(prefix)).map((uri) => uri.slice(prefix.length));
  const name = names[0];
  if (name === undefined || names.length !== 1 || !TENANT_NAME_PATTERN.test(name)) {
    throw new NodeError("not_authorized", "the certificate names no tenant of this cluster");
  }
  return name;
}
