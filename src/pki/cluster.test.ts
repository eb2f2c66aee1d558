import { afterEach, beforeEach, expect, test } from "bun:test";
import { X509Certificate } from "node:crypto";
import { chmodSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createTenant, ensureCluster, listTenants, PkiError } from "./cluster.ts";

let folder: string;
let pki: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "kiseki-pki-"));
  pki = join(folder, "pki");
});
afterEach(() => rmSync(folder, { recursive: true }));

test("a cluster is made once, its keys for the owner's eyes only", async () => {
  const first = await ensureCluster(pki, "node-1");
  expect(await ensureCluster(pki, "node-1")).toEqual(first);
  expect(statSync(pki).mode & 0o777).toBe(0o700);
  for (const name of ["ca.key", "ca.crt", "node.key", "node.crt", "cluster"]) expect(statSync(join(pki, name)).mode & 0o777).toBe(0o600);
});

test("certificates chain to the CA, and say who they are and what for", async () => {
  const { cluster, tls } = await ensureCluster(pki, "node-1");
  const ca = new X509Certificate(tls.ca);
  expect(ca.ca).toBeTrue();
  const node = new X509Certificate(tls.cert);
  expect(node.subjectAltName).toContain(`URI:spiffe://${cluster}/node/node-1`);
  expect(node.subjectAltName).toContain("DNS:localhost");
  expect(node.subjectAltName).toContain("IP Address:127.0.0.1");
  const tenant = new X509Certificate((await createTenant(pki, "acme", 30)).cert);
  expect(tenant.subjectAltName).toBe(`URI:spiffe://${cluster}/tenant/acme`);
  expect(Math.round((new Date(tenant.validTo).getTime() - Date.now()) / 86_400_000)).toBe(30);
  for (const certificate of [node, tenant]) {
    expect(certificate.ca).toBeFalse();
    expect(certificate.checkIssued(ca)).toBeTrue();
    expect(certificate.verify(ca.publicKey)).toBeTrue();
  }
});

test("a node certificate that is missing, or half written, is made anew by the same CA", async () => {
  const first = await ensureCluster(pki, "node-1");
  rmSync(join(pki, "node.crt"));
  const second = await ensureCluster(pki, "node-1");
  expect(second.tls.ca).toBe(first.tls.ca);
  expect(second.tls.cert).not.toBe(first.tls.cert);
  writeFileSync(join(pki, "node.crt.new"), "");
  expect((await ensureCluster(pki, "node-1")).tls.cert).not.toBe(second.tls.cert);
});

test("tenants are listed once recorded, and made once", async () => {
  await ensureCluster(pki, "node-1");
  const issued = await createTenant(pki, "acme", 30);
  expect(listTenants(pki)).toEqual([]);
  issued.record();
  (await createTenant(pki, "beta.2", 30)).record();
  expect(listTenants(pki).map(({ tenant }) => tenant)).toEqual(["acme", "beta.2"]);
  expect(createTenant(pki, "acme", 30)).rejects.toThrow(PkiError);
  expect(() => issued.record()).toThrow(PkiError);
});

test.each(["", "..", "A", "a/b", "a b", "-a", "x".repeat(65)])("%p is no tenant's name", async (name) => {
  await ensureCluster(pki, "node-1");
  expect(createTenant(pki, name, 30)).rejects.toThrow("not a tenant name");
});

test("a folder that others may read, or that is none, is refused", async () => {
  expect(createTenant(pki, "acme", 30)).rejects.toThrow("no such file");
  await ensureCluster(pki, "node-1");
  chmodSync(pki, 0o755);
  expect(createTenant(pki, "acme", 30)).rejects.toThrow("chmod 700");
  expect(readFileSync(join(pki, "cluster"), "utf8")).toMatch(/^kiseki-[0-9a-f]{16}\n$/);
});
