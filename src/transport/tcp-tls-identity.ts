/** What certificates say: who a peer is, and what is wrong with one's own. */
import { X509Certificate } from "node:crypto";
import type { Peer, TlsIdentity } from "./transport.ts";

/** The name that the cluster's CA gives to storage nodes and to nobody else. */
const NODE_URI = /^spiffe:\/\/[^/]+\/node\/[^/]+$/;

/** The names of a certificate that the TLS layer has already verified. */
export function peerOf(certificate: X509Certificate): Peer {
  return { sanUris: uriNames(certificate.subjectAltName), serial: certificate.serialNumber };
}

export function isNode(peer: Peer): boolean {
  return peer.sanUris.some((uri) => NODE_URI.test(uri));
}

/**
 * URI names in the text form of a subjectAltName ("DNS:a, URI:b"). A name with a comma, quote or control character is written quoted
 * and escaped (CVE-2021-44532): ours have none, so such a one is passed over rather than decoded.
 */
export function uriNames(subjectAltName: string | undefined): string[] {
  if (subjectAltName === undefined) return [];
  const uris: string[] = [];
  for (const name of subjectAltName.split(", ")) {
    if (name.startsWith("URI:") && !name.includes('"')) uris.push(name.slice("URI:".length));
  }
  return uris;
}

/**
 * Why a peer would refuse this identity, or null when nothing is wrong with it. Under TLS 1.3 the client is done before the server has
 * looked at its certificate, and often sees no more than a closed connection: this finds the reason to report.
 */
export function identityProblem(tls: TlsIdentity, now: Date = new Date()): string | null {
  let own: X509Certificate;
  let ca: X509Certificate;
  try {
    own = new X509Certificate(tls.cert);
    ca = new X509Certificate(tls.ca);
  } catch (error) {
    return `a certificate cannot be read: ${String(error)}`;
  }
  if (now > own.validToDate) return `our certificate expired on ${own.validToDate.toISOString()}`;
  if (now < own.validFromDate) return `our certificate is valid only from ${own.validFromDate.toISOString()}: check the clock`;
  if (!own.verify(ca.publicKey)) return "our certificate was not issued by the cluster's CA";
  return null;
}

/** The sentence for what OpenSSL calls a certificate error. */
export function verifyErrorText(whose: string, code: string | undefined, message: string): string {
  switch (code) {
    case "CERT_HAS_EXPIRED":
      return `${whose} certificate has expired`;
    case "CERT_NOT_YET_VALID":
      return `${whose} certificate is not valid yet: check the clocks`;
    case "SELF_SIGNED_CERT_IN_CHAIN":
    case "DEPTH_ZERO_SELF_SIGNED_CERT":
    case "UNABLE_TO_GET_ISSUER_CERT":
    case "UNABLE_TO_GET_ISSUER_CERT_LOCALLY":
    case "UNABLE_TO_VERIFY_LEAF_SIGNATURE":
    case "CERT_SIGNATURE_FAILURE":
      return `${whose} certificate was not issued by the cluster's CA (${message})`;
    default:
      return `${whose} certificate: ${message}`;
  }
}
