/**
 * The folder of a cluster's keys, DIR/pki (0700), with files of mode 0600:
 *
 *     cluster              the cluster's name, one line: random, the trust domain of its certificates
 *     ca.crt  ca.key       who has the key can make tenants and nodes
 *     node.crt  node.key   of the node on this host
 *     tenants/<name>.json  what was issued: { version, tenant, serial, created, expires }, `earlier` certificates, and `shredded`, when, where that
 *                          has happened
 *     revoked              see revoked.ts
 *
 * `kiseki tenant create` needs this folder only, no running node.
 */
import {
  closeSync,
  existsSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeSync,
} from "node:fs";
import { networkInterfaces } from "node:os";
import { dirname, join } from "node:path";
import { z } from "zod";
import { TENANT_NAME_PATTERN } from "../protocol/limits.ts";
import type { TlsIdentity } from "../transport/transport.ts";
import { type CertificateAndKey, describeCertificate, issueNode, issueOperator, issueTenant, makeCa } from "./certificates.ts";

const NODE_DAYS = 825;
const DAY_MS = 86_400_000;
/** A node certificate with less than this left is made anew when the node starts. */
const NODE_RENEW_MS = 90 * DAY_MS;
/** Bits of st_mode that let group or others do anything. */
const MODE_OTHERS = 0o077;

const tenantRecordSchema = z.object({
  version: z.literal(1),
  tenant: z.string().regex(TENANT_NAME_PATTERN),
  serial: z.string(),
  created: z.iso.datetime(),
  expires: z.iso.datetime(),
  shredded: z.iso.datetime().optional(),
  /** Certificates issued before the present one; they hold until they expire or are revoked. */
  earlier: z.array(z.object({ serial: z.string(), expires: z.iso.datetime() })).optional(),
});

/** What was issued to a tenant. */
export type TenantRecord = z.infer<typeof tenantRecordSchema>;

/** The folder is missing, damaged, or does not allow what was asked. One line, with the remedy. */
export class PkiError extends Error {
  override readonly name = "PkiError";
}

function syncPath(path: string): void {
  const fd = openSync(path, "r");
  try {
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
}

/** A new file, on disk when this returns; it and its name survive power loss. */
function writeNew(path: string, text: string): void {
  const fd = openSync(path, "wx", 0o600);
  try {
    writeSync(fd, text);
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
  syncPath(dirname(path));
}

function read(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch (error) {
    const code = error instanceof Error && "code" in error ? error.code : "";
    if (code === "ENOENT" || code === "ENOTDIR") {
      throw new PkiError(`${path}: no such file; give the pki folder of a storage node's data folder (made by kiseki serve)`, {
        cause: error,
      });
    }
    if (code === "EACCES") throw new PkiError(`${path}: permission denied; run as the user that runs the storage node`, { cause: error });
    throw error;
  }
}

function readCluster(folder: string): { cluster: string; ca: CertificateAndKey } {
  const cluster = read(join(folder, "cluster")).trim();
  if ((statSync(folder).mode & MODE_OTHERS) !== 0) {
    throw new PkiError(`${folder}: group or others may look into this folder, which holds the CA's key; run: chmod 700 ${folder}`);
  }
  return { cluster, ca: { cert: read(join(folder, "ca.crt")), key: read(join(folder, "ca.key")) } };
}

function hostsOf(hostname: string): string[] {
  const addresses = Object.values(networkInterfaces()).flatMap((list) => list?.map(({ address }) => address) ?? []);
  return ["localhost", hostname, "127.0.0.1", "::1", ...addresses.filter((address) => !address.startsWith("fe80:"))];
}

async function makeCluster(folder: string): Promise<void> {
  const cluster = `kiseki-${crypto.getRandomValues(new Uint8Array(8)).toHex()}`;
  const ca = await makeCa(cluster);
  const aside = `${folder}.new`;
  rmSync(aside, { recursive: true, force: true });
  mkdirSync(join(aside, "tenants"), { recursive: true, mode: 0o700 });
  writeNew(join(aside, "ca.key"), ca.key);
  writeNew(join(aside, "ca.crt"), ca.cert);
  writeNew(join(aside, "cluster"), `${cluster}\n`);
  renameSync(aside, folder);
  syncPath(dirname(folder));
}

async function makeNodeCertificate(folder: string, hostname: string): Promise<void> {
  const { cluster, ca } = readCluster(folder);
  const { cert, key } = await issueNode(ca, cluster, hostname, hostsOf(hostname), NODE_DAYS);
  for (const [name, text] of [
    ["node.key", key],
    ["node.crt", cert],
  ] as const) {
    rmSync(join(folder, `${name}.new`), { force: true });
    writeNew(join(folder, `${name}.new`), text);
  }
  // A crash between the two is healed by the next start: see nodeCertificateFits.
  renameSync(join(folder, "node.key.new"), join(folder, "node.key"));
  renameSync(join(folder, "node.crt.new"), join(folder, "node.crt"));
  syncPath(folder);
}

function nodeCertificateFits(folder: string): boolean {
  const [cert, key] = [join(folder, "node.crt"), join(folder, "node.key")];
  if (!existsSync(cert) || !existsSync(key) || existsSync(`${cert}.new`)) return false;
  const { notBefore, notAfter } = describeCertificate(read(cert));
  const leftMs = notAfter.getTime() - Date.now();
  // Made when the clock was wrong, it may begin in the future.
  return notBefore.getTime() <= Date.now() && leftMs > NODE_RENEW_MS;
}

/** The node's identity anew, where it is about to expire; null: it is not. @throws PkiError */
export async function renewNode(folder: string, hostname: string): Promise<TlsIdentity | null> {
  if (nodeCertificateFits(folder)) return null;
  return (await ensureCluster(folder, hostname)).tls;
}

/** The cluster of this folder and the node's identity; what is missing or about to expire is made. @throws PkiError */
export async function ensureCluster(folder: string, hostname: string): Promise<{ cluster: string; tls: TlsIdentity }> {
  if (!existsSync(folder)) await makeCluster(folder);
  const { cluster, ca } = readCluster(folder);
  if (!nodeCertificateFits(folder)) await makeNodeCertificate(folder, hostname);
  return { cluster, tls: { ca: ca.cert, cert: read(join(folder, "node.crt")), key: read(join(folder, "node.key")) } };
}

/** What a new tenant's credentials need, PEM texts. */
export interface IssuedTenant extends CertificateAndKey {
  readonly cluster: string;
  readonly tenant: string;
  readonly ca: string;
  /** Writes down that it was issued: call it when the credentials are safe. @throws PkiError where the tenant exists */
  record(): void;
}

/**
 * Makes a certificate for a new tenant.
 * @throws PkiError: bad name, known already (a second KEK could not open what the first has sealed)
 */
export async function createTenant(folder: string, tenant: string, days: number): Promise<IssuedTenant> {
  if (!TENANT_NAME_PATTERN.test(tenant)) {
    throw new PkiError(`${tenant}: not a tenant name; use 1 to 64 of a-z, 0-9, ".", "_", "-", beginning and ending with a letter or digit`);
  }
  const { cluster, ca } = readCluster(folder);
  const path = join(folder, "tenants", `${tenant}.json`);
  const exists = `tenant ${tenant} exists already: its data can only be opened with the credentials file made then`;
  if (existsSync(path)) {
    const shredded = readTenant(path).shredded !== undefined;
    throw new PkiError(shredded ? `tenant ${tenant} was shredded, and its name is not given again: choose another` : exists);
  }
  const { cert, key } = await issueTenant(ca, cluster, tenant, days);
  const { notAfter, serial } = describeCertificate(cert);
  const record: TenantRecord = { version: 1, tenant, serial, created: new Date().toISOString(), expires: notAfter.toISOString() };
  return {
    cluster,
    tenant,
    ca: ca.cert,
    cert,
    key,
    record: () => {
      try {
        writeNew(path, `${JSON.stringify(record, null, 2)}\n`);
      } catch (error) {
        if (error instanceof Error && "code" in error && error.code === "EEXIST") throw new PkiError(exists, { cause: error });
        throw error;
      }
    },
  };
}

function readTenant(path: string): TenantRecord {
  let json: unknown;
  try {
    json = JSON.parse(read(path));
  } catch (error) {
    if (error instanceof PkiError) throw error;
    json = null;
  }
  const parsed = tenantRecordSchema.safeParse(json);
  if (!parsed.success) throw new PkiError(`${path}: not a tenant's record`);
  return parsed.data;
}

/** For one command: a certificate that lets the CA's holder act for a tenant that exists, and set its limits. @throws PkiError where it doesn't exist */
export async function issueForTenant(folder: string, tenant: string): Promise<TlsIdentity> {
  const { cluster, ca } = readCluster(folder);
  tenantRecord(folder, tenant);
  return { ca: ca.cert, ...(await issueOperator(ca, cluster, tenant)) };
}

/** Puts a tenant's record in the place of the one before. */
function replaceRecord(folder: string, record: TenantRecord): void {
  const path = join(folder, "tenants", `${record.tenant}.json`);
  rmSync(`${path}.new`, { force: true });
  writeNew(`${path}.new`, `${JSON.stringify(record, null, 2)}\n`);
  renameSync(`${path}.new`, path);
  syncPath(dirname(path));
}

/**
 * A new certificate for a tenant that exists. The ones before go on being accepted until they expire or are revoked.
 * @throws PkiError where it doesn't exist, or was shredded
 */
export async function renewTenant(folder: string, tenant: string, days: number): Promise<IssuedTenant> {
  const { cluster, ca } = readCluster(folder);
  const before = tenantRecord(folder, tenant);
  if (before.shredded !== undefined) throw new PkiError(`tenant ${tenant} was shredded: there is nothing that credentials could open`);
  const { cert, key } = await issueTenant(ca, cluster, tenant, days);
  const { notAfter, serial } = describeCertificate(cert);
  const now = Date.now();
  const earlier = [...(before.earlier ?? []), { serial: before.serial, expires: before.expires }];
  const record: TenantRecord = {
    ...before,
    serial,
    expires: notAfter.toISOString(),
    earlier: earlier.filter(({ expires }) => Date.parse(expires) > now),
  };
  return { cluster, tenant, ca: ca.cert, cert, key, record: () => replaceRecord(folder, record) };
}

/** @throws PkiError where no such tenant was made with this CA */
export function tenantRecord(folder: string, tenant: string): TenantRecord {
  const path = join(folder, "tenants", `${tenant}.json`);
  if (!TENANT_NAME_PATTERN.test(tenant) || !existsSync(path)) {
    throw new PkiError(`no tenant ${tenant} was made with this CA; see: kiseki tenant list --ca ${folder}`);
  }
  return readTenant(path);
}

/** Writes down that a tenant's keys are destroyed, where it was made with this CA. @throws PkiError, the system's error */
export function recordShredded(folder: string, tenant: string): void {
  const path = join(folder, "tenants", `${tenant}.json`);
  if (!existsSync(path)) return;
  const record = readTenant(path);
  if (record.shredded === undefined) replaceRecord(folder, { ...record, shredded: new Date().toISOString() });
}

/** Tenants that were created here, by name. @throws PkiError */
export function listTenants(folder: string): TenantRecord[] {
  readCluster(folder);
  return readdirSync(join(folder, "tenants"))
    .filter((name) => name.endsWith(".json"))
    .sort()
    .map((name) => readTenant(join(folder, "tenants", name)));
}
