/**
 * The X.509 certificates of a cluster: a CA, nodes, tenants. ECDSA P-256, made with @peculiar/x509 and WebCrypto. Names are SPIFFE
 * ids (spiffe.io, X.509-SVID): one URI in subjectAltName. The cluster's name is the trust domain.
 */
import "./reflect-metadata.ts";
import { isIP } from "node:net";
import {
  AuthorityKeyIdentifierExtension,
  BasicConstraintsExtension,
  ExtendedKeyUsage,
  ExtendedKeyUsageExtension,
  type JsonGeneralName,
  KeyUsageFlags,
  KeyUsagesExtension,
  PemConverter,
  SubjectAlternativeNameExtension,
  SubjectKeyIdentifierExtension,
  X509Certificate,
  X509CertificateGenerator,
} from "@peculiar/x509";

const ALGORITHM = { name: "ECDSA", namedCurve: "P-256", hash: "SHA-256" } as const;
const DAY_MS = 86_400_000;
const CA_DAYS = 7_300;
/** Certificates start in the past, for clocks that are a little behind. */
const BACKDATE_MS = 3_600_000;

/** PEM texts. */
export interface CertificateAndKey {
  readonly cert: string;
  readonly key: string;
}

async function exportKey(key: CryptoKey): Promise<string> {
  return `${PemConverter.encode(await crypto.subtle.exportKey("pkcs8", key), "PRIVATE KEY")}\n`;
}

async function importKey(pem: string): Promise<CryptoKey> {
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
  const keys = await crypto.subtle.generateKey(ALGORITHM, true, ["sign", "verify"]);
  const certificate = await X509CertificateGenerator.createSelfSigned({
    serialNumber: serialNumber(),
    name: `O=kiseki,CN=kiseki cluster ${cluster}`,
    notBefore: new Date(Date.now() - BACKDATE_MS),
    notAfter: new Date(Date.now() + CA_DAYS * DAY_MS),
    signingAlgorithm: ALGORITHM,
    keys,
    extensions: [
      new BasicConstraintsExtension(true, 0, true),
      new KeyUsagesExtension(KeyUsageFlags.keyCertSign | KeyUsageFlags.cRLSign, true),
      await SubjectKeyIdentifierExtension.create(keys.publicKey),
      new SubjectAlternativeNameExtension([{ type: "url", value: `spiffe://${cluster}` }]),
    ],
  });
  return { cert: `${certificate.toString("pem")}\n`, key: await exportKey(keys.privateKey) };
}

async function issue(
  ca: CertificateAndKey,
  commonName: string,
  names: JsonGeneralName[],
  usages: ExtendedKeyUsage[],
  days: number,
): Promise<CertificateAndKey> {
  const issuer = new X509Certificate(ca.cert);
  const keys = await crypto.subtle.generateKey(ALGORITHM, true, ["sign", "verify"]);
  const notAfter = Math.min(Date.now() + days * DAY_MS, issuer.notAfter.getTime());
  const certificate = await X509CertificateGenerator.create({
    serialNumber: serialNumber(),
    subject: [{ O: ["kiseki"] }, { CN: [commonName] }],
    issuer: issuer.subject,
    notBefore: new Date(Date.now() - BACKDATE_MS),
    notAfter: new Date(notAfter),
    signingAlgorithm: ALGORITHM,
    publicKey: keys.publicKey,
    signingKey: await importKey(ca.key),
    extensions: [
      new BasicConstraintsExtension(false, undefined, true),
      new KeyUsagesExtension(KeyUsageFlags.digitalSignature, true),
      new ExtendedKeyUsageExtension(usages),
      new SubjectAlternativeNameExtension(names),
      await AuthorityKeyIdentifierExtension.create(issuer),
      await SubjectKeyIdentifierExtension.create(keys.publicKey),
    ],
  });
  return { cert: `${certificate.toString("pem")}\n`, key: await exportKey(keys.privateKey) };
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
  return await issue(ca, node, names, [ExtendedKeyUsage.serverAuth, ExtendedKeyUsage.clientAuth], days);
}

/** A tenant's certificate. */
export async function issueTenant(ca: CertificateAndKey, cluster: string, tenant: string, days: number): Promise<CertificateAndKey> {
  const names: JsonGeneralName[] = [{ type: "url", value: `spiffe://${cluster}/tenant/${tenant}` }];
  return await issue(ca, tenant, names, [ExtendedKeyUsage.clientAuth], days);
}

/** When a certificate stops being valid, and its serial number in hexadecimal. */
export function describeCertificate(pem: string): { notAfter: Date; serial: string } {
  const certificate = new X509Certificate(pem);
  return { notAfter: certificate.notAfter, serial: certificate.serialNumber };
}
