/** Certificates for tests, made as the storage node makes them: ECDSA P-256, names in a URI of the subjectAltName. */
import "./reflect-metadata.ts";
import { webcrypto } from "node:crypto";
import type { TlsIdentity } from "../transport/transport.ts";

const ALGORITHM = { name: "ECDSA", namedCurve: "P-256", hash: "SHA-256" };
const DAY_MS = 24 * 60 * 60 * 1000;

// Loaded only now, when the polyfill is in place.
const x509 = await import("@peculiar/x509");

export interface TestCa {
  pem: string;
  keys: CryptoKeyPair;
  name: string;
}

async function keyPem(key: CryptoKey): Promise<string> {
  const der = Buffer.from(await webcrypto.subtle.exportKey("pkcs8", key)).toString("base64");
  return `-----BEGIN PRIVATE KEY-----\n${der.replace(/.{64}/g, "$&\n")}\n-----END PRIVATE KEY-----\n`;
}

export async function makeCa(name: string): Promise<TestCa> {
  const keys = (await webcrypto.subtle.generateKey(ALGORITHM, true, ["sign", "verify"])) as CryptoKeyPair;
  const certificate = await x509.X509CertificateGenerator.createSelfSigned({
    name: `CN=${name}`,
    keys,
    serialNumber: "01",
    signingAlgorithm: ALGORITHM,
    notBefore: new Date(Date.now() - DAY_MS),
    notAfter: new Date(Date.now() + DAY_MS),
    extensions: [
      new x509.BasicConstraintsExtension(true, undefined, true),
      new x509.KeyUsagesExtension(x509.KeyUsageFlags.keyCertSign, true),
    ],
  });
  return { pem: certificate.toString("pem"), keys, name };
}

export interface TestNames {
  uri?: string;
  dns?: string;
  ip?: string;
}

/** A certificate of `ca`, to be used by someone who trusts `trusted`. Valid from `fromDays` to `toDays` from now. */
export async function makeIdentity(
  ca: TestCa,
  names: TestNames,
  validity = { fromDays: -1, toDays: 1 },
  trusted = ca,
): Promise<TlsIdentity> {
  const keys = (await webcrypto.subtle.generateKey(ALGORITHM, true, ["sign", "verify"])) as CryptoKeyPair;
  const alternatives: { type: "url" | "dns" | "ip"; value: string }[] = [];
  if (names.uri !== undefined) alternatives.push({ type: "url", value: names.uri });
  if (names.dns !== undefined) alternatives.push({ type: "dns", value: names.dns });
  if (names.ip !== undefined) alternatives.push({ type: "ip", value: names.ip });
  const certificate = await x509.X509CertificateGenerator.create({
    subject: "CN=test",
    issuer: `CN=${ca.name}`,
    serialNumber: "0a0b0c",
    publicKey: keys.publicKey,
    signingKey: ca.keys.privateKey,
    signingAlgorithm: ALGORITHM,
    notBefore: new Date(Date.now() + validity.fromDays * DAY_MS),
    notAfter: new Date(Date.now() + validity.toDays * DAY_MS),
    extensions: [new x509.SubjectAlternativeNameExtension(alternatives)],
  });
  return { ca: trusted.pem, cert: certificate.toString("pem"), key: await keyPem(keys.privateKey) };
}
