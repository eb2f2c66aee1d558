/**
 * The X.509 certificates of a cluster: a CA, nodes, tenants. ECDSA P-256, made with @peculiar/x509 and WebCrypto. Names are SPIFFE
 * ids (spiffe.io, X.509-SVID): one URI in subjectAltName. The cluster's name is the trust domain.
 */
import "./reflect-metadata.ts";
import { X509Certificate } from "node:crypto";
import { isIP } from "node:net";
import type { JsonGeneralName } from "@peculiar/x509";

/** Not imported statically: it is CommonJS, which Bun evaluates before any module, the polyfill above among them. */
async function loadX509(): Promise<typeof import("@peculiar/x509")> {
  return await import("@peculiar/x509");
}
type X509 = Awaited<ReturnType<typeof loadX509>>;

const ALGORITHM = { name: "ECDSA", namedCurve: "P-256", hash: "SHA-256" } as const;
/** RFC 5280 section 4.2.1.12. */
const SERVER_AUTH = "1.3.6.1.5.5.7.3.1";
const CLIENT_AUTH = "1.3.6.1.5.5.7.3.2";
const DAY_MS = 86_400_000;
const CA_DAYS = 7_300;
/** Of a certificate that is made for one command: a day, for clocks that differ. */
const OPERATOR_DAYS = 1;
/** Certificates start in the past, for clocks that are a little behind. */
const BACKDATE_MS = 3_600_000;

/** PEM texts. */
export interface CertificateAndKey {
  readonly cert: string;
  readonly key: string;
}

async function exportKey({ PemConverter }: X509, key: CryptoKey): Promise<string> {
  return `${PemConverter.encode(await crypto.subtle.exportKey("pkcs8", key), "PRIVATE KEY")}\n`;
}

async function importKey({ PemConverter }: X509, pem: string): Promise<CryptoKey> {
  const [der] = PemConverter.decode(pem);
  if (der === undefined) throw new Error("expected a private key in PEM");
  return await crypto.subtle.importKey("pkcs8", der, ALGORITHM, false, ["sign"]);
}

/** RFC 5280 section 4.1.2.2: positive, at most 20 bytes. */
function serialNumber(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[0] = ((bytes[0] ?? 0) & 0x7f) | 0x40;
  return bytes.toHex();
}

export async function makeCa(cluster: string): Promise<CertificateAndKey> {
  const x509 = await loadX509();
  const keys = await crypto.subtle.generateKey(ALGORITHM, true, ["sign", "verify"]);
  const certificate = await x509.X509CertificateGenerator.createSelfSigned({
    serialNumber: serialNumber(),
    name: `O=kiseki,CN=kiseki cluster ${cluster}`,
    notBefore: new Date(Date.now() - BACKDATE_MS),
    notAfter: new Date(Date.now() + CA_DAYS * DAY_MS),
    signingAlgorithm: ALGORITHM,
    keys,
    extensions: [
      new x509.BasicConstraintsExtension(true, 0, true),
      new x509.KeyUsagesExtension(x509.KeyUsageFlags.keyCertSign | x509.KeyUsageFlags.cRLSign, true),
      await x509.SubjectKeyIdentifierExtension.create(keys.publicKey),
      new x509.SubjectAlternativeNameExtension([{ type: "url", value: `spiffe://${cluster}` }]),
    ],
  });
  return { cert: `${certificate.toString("pem")}\n`, key: await exportKey(x509, keys.privateKey) };
}

async function issue(
  ca: CertificateAndKey,
  commonName: string,
  names: JsonGeneralName[],
  usages: string[],
  days: number,
): Promise<CertificateAndKey> {
  const x509 = await loadX509();
  const issuer = new x509.X509Certificate(ca.cert);
  const keys = await crypto.subtle.generateKey(ALGORITHM, true, ["sign", "verify"]);
  const notAfter = Math.min(Date.now() + days * DAY_MS, issuer.notAfter.getTime());
  const certificate = await x509.X509CertificateGenerator.create({
    serialNumber: serialNumber(),
    subject: [{ O: ["kiseki"] }, { CN: [commonName] }],
    issuer: issuer.subject,
    notBefore: new Date(Date.now() - BACKDATE_MS),
    notAfter: new Date(notAfter),
    signingAlgorithm: ALGORITHM,
    publicKey: keys.publicKey,
    signingKey: await importKey(x509, ca.key),
    extensions: [
      new x509.BasicConstraintsExtension(false, undefined, true),
      new x509.KeyUsagesExtension(x509.KeyUsageFlags.digitalSignature, true),
      new x509.ExtendedKeyUsageExtension(usages),
      new x509.SubjectAlternativeNameExtension(names),
      await x509.AuthorityKeyIdentifierExtension.create(issuer),
      await x509.SubjectKeyIdentifierExtension.create(keys.publicKey),
    ],
  });
  return { cert: `${certificate.toString("pem")}\n`, key: await exportKey(x509, keys.privateKey) };
}

/** A node's certificate; `hosts` are the names and addresses that it is reached by. */
export async function issueNode(
  ca: CertificateAndKey,
  cluster: string,
  node: string,
  hosts: readonly string[],
  days: number,
): Promise<CertificateAndKey> {
  const names: JsonGeneralName[] = [{ type: "url", value: `spiffe://${cluster}/node/${encodeURIComponent(node)}` }];
  for (const host of new Set(hosts)) names.push({ type: isIP(host) === 0 ? "dns" : "ip", value: host });
  return await issue(ca, node, names, [SERVER_AUTH, CLIENT_AUTH], days);
}

/** A tenant's certificate. */
export async function issueTenant(ca: CertificateAndKey, cluster: string, tenant: string, days: number): Promise<CertificateAndKey> {
  return await issue(ca, tenant, [tenantName(cluster, tenant)], [CLIENT_AUTH], days);
}

/** Of who holds the CA, for one tenant: may also set what a tenant may not set for itself. Made for one command, and not kept. */
export async function issueOperator(ca: CertificateAndKey, cluster: string, tenant: string): Promise<CertificateAndKey> {
  const operator: JsonGeneralName = { type: "url", value: `spiffe://${cluster}/operator` };
  return await issue(ca, tenant, [tenantName(cluster, tenant), operator], [CLIENT_AUTH], OPERATOR_DAYS);
}

function tenantName(cluster: string, tenant: string): JsonGeneralName {
  return { type: "url", value: `spiffe://${cluster}/tenant/${tenant}` };
}

/** From when to when a certificate is valid, and its serial number in hexadecimal. */
export function describeCertificate(pem: string): { notBefore: Date; notAfter: Date; serial: string } {
  const { validFromDate, validToDate, serialNumber } = new X509Certificate(pem);
  return { notBefore: validFromDate, notAfter: validToDate, serial: serialNumber.toLowerCase() };
}
