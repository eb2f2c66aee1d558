/**
 * The credentials file of a tenant: what a client needs to be that tenant. JSON, mode 0600.
 *
 *     { version: 1, cluster, tenant,
 *       ca, cert, key:      PEM texts; `key` is the private key of the client certificate
 *       kek:                base64 of 32 bytes, or instead
 *       sealedKek:          { argon2id: { memoryKib, passes, lanes }, salt, nonce, ciphertext }, the last three in base64 }
 *
 * A passphrase covers the KEK, which opens the data, not the TLS key, which only reaches it.
 */
import { createPrivateKey, X509Certificate } from "node:crypto";
import { constants } from "node:fs";
import { type FileHandle, open, rename, unlink } from "node:fs/promises";
import { dirname } from "node:path";
import { xchacha20poly1305 } from "@noble/ciphers/chacha.js";
import { argon2id } from "hash-wasm";
import { z } from "zod";
import { lockMemory } from "../../ffi/libc/protect.ts";
import { TENANT_NAME_PATTERN } from "../protocol/limits.ts";
import { KEK_BYTES } from "./key-ring.ts";

/** XChaCha20-Poly1305 nonce (draft-irtf-cfrg-xchacha): long enough to be random. */
const NONCE_BYTES = 24;
/** RFC 9106 section 3.1 recommends 128 bits. */
const SALT_BYTES = 16;
const POLY1305_TAG_BYTES = 16;
/** RFC 9106 section 4, second recommended option: 64 MiB, 3 passes, 4 lanes. Some 0.2 s here. */
const ARGON2ID_DEFAULT = { memoryKib: 65_536, passes: 3, lanes: 4 };
/** PEM texts and KEK need some 4 KiB; a longer file is not ours. */
const FILE_MAX_BYTES = 1024 * 1024;
/** Bits of st_mode that let group or others do anything. */
const MODE_OTHERS = 0o077;

/** A credentials file that can't be used. The message is one line and names the remedy where there is one. */
export class CredentialsError extends Error {
  override readonly name = "CredentialsError";
}

const base64 = (bytes: number) =>
  z.base64().refine((text) => Buffer.from(text, "base64").length === bytes, { error: `expected base64 of ${bytes} bytes` });
const pem = (label: RegExp) => z.string().regex(label, { error: "expected a PEM text" });
const certificate = pem(/-----BEGIN CERTIFICATE-----[\s\S]+-----END CERTIFICATE-----/);
const privateKey = pem(/-----BEGIN (?:EC |RSA )?PRIVATE KEY-----[\s\S]+-----END (?:EC |RSA )?PRIVATE KEY-----/);

const sealedKekSchema = z.strictObject({
  // The upper limits keep a damaged file from asking for all memory or for an hour.
  argon2id: z.strictObject({
    memoryKib: z.int().min(8_192).max(1_048_576),
    passes: z.int().min(1).max(64),
    lanes: z.int().min(1).max(64),
  }),
  salt: base64(SALT_BYTES),
  nonce: base64(NONCE_BYTES),
  ciphertext: base64(KEK_BYTES + POLY1305_TAG_BYTES),
});

const fileSchema = z
  .strictObject({
    version: z.literal(1),
    cluster: z.string().min(1).max(255),
    tenant: z.string().regex(TENANT_NAME_PATTERN),
    ca: certificate,
    cert: certificate,
    key: privateKey,
    kek: base64(KEK_BYTES).optional(),
    sealedKek: sealedKekSchema.optional(),
  })
  .refine((file) => (file.kek === undefined) !== (file.sealedKek === undefined), { error: "expected either kek or sealedKek" });

/** What the file holds, as JSON. */
export type CredentialsFile = z.infer<typeof fileSchema>;

/** What a client works with: the same, with the KEK opened (32 bytes; the caller wipes it when done). */
export interface Credentials {
  readonly cluster: string;
  readonly tenant: string;
  readonly ca: string;
  readonly cert: string;
  readonly key: string;
  readonly kek: Uint8Array;
}

/** Identity of a new tenant: its names and PEM texts. */
export type TenantIdentity = Omit<Credentials, "kek">;

function describe(error: z.ZodError): string {
  const issue = error.issues[0];
  if (issue === undefined) return "invalid";
  const where = issue.path.join(".");
  return where === "" ? issue.message : `${where}: ${issue.message}`;
}

/** Ties a sealed KEK to its tenant: a file put together from two others doesn't open. */
function sealedKekContext(cluster: string, tenant: string): Uint8Array {
  return new TextEncoder().encode(JSON.stringify(["kiseki kek v1", cluster, tenant]));
}

async function passphraseKey(
  passphrase: string,
  salt: Uint8Array,
  params: { memoryKib: number; passes: number; lanes: number },
): Promise<Uint8Array> {
  return await argon2id({
    // The same passphrase typed on two systems may arrive in two Unicode forms.
    password: passphrase.normalize("NFC"),
    salt,
    memorySize: params.memoryKib,
    iterations: params.passes,
    parallelism: params.lanes,
    hashLength: 32,
    outputType: "binary",
  });
}

type KekPart = Pick<CredentialsFile, "kek" | "sealedKek">;

function plainKek(kek: Uint8Array): KekPart {
  return { kek: Buffer.from(kek).toString("base64") };
}

async function sealKek({ cluster, tenant, kek }: Pick<Credentials, "cluster" | "tenant" | "kek">, passphrase: string): Promise<KekPart> {
  const salt = crypto.getRandomValues(new Uint8Array(SALT_BYTES));
  const nonce = crypto.getRandomValues(new Uint8Array(NONCE_BYTES));
  const wrapping = await passphraseKey(passphrase, salt, ARGON2ID_DEFAULT);
  const ciphertext = xchacha20poly1305(wrapping, nonce, sealedKekContext(cluster, tenant)).encrypt(kek);
  wrapping.fill(0);
  return {
    sealedKek: {
      argon2id: { ...ARGON2ID_DEFAULT },
      salt: Buffer.from(salt).toString("base64"),
      nonce: Buffer.from(nonce).toString("base64"),
      ciphertext: Buffer.from(ciphertext).toString("base64"),
    },
  };
}

/**
 * Makes the credentials of a new tenant, with a new random KEK; with `passphrase`, the KEK is sealed under it.
 * @throws RangeError for an empty passphrase, CredentialsError for an identity that isn't PEM or a bad tenant name.
 */
export async function makeCredentials(identity: TenantIdentity, passphrase?: string): Promise<CredentialsFile> {
  if (passphrase === "") throw new RangeError("expected a passphrase of at least one character");
  const { cluster, tenant, ca, cert, key } = identity;
  const kek = crypto.getRandomValues(new Uint8Array(KEK_BYTES));
  const kekPart = passphrase === undefined ? plainKek(kek) : await sealKek({ cluster, tenant, kek }, passphrase);
  const file: CredentialsFile = { version: 1, cluster, tenant, ca, cert, key, ...kekPart };
  kek.fill(0);
  const parsed = fileSchema.safeParse(file);
  if (!parsed.success) throw new CredentialsError(`credentials of tenant ${tenant}: ${describe(parsed.error)}`);
  return parsed.data;
}

/**
 * Writes a credentials file, mode 0600, and fsyncs it and its folder. Never replaces a file: it may hold the only KEK.
 * @throws CredentialsError when `path` exists, the system's error otherwise.
 */
export async function writeCredentialsFile(path: string, file: CredentialsFile): Promise<void> {
  let handle: FileHandle;
  try {
    handle = await open(path, constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL, 0o600);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "EEXIST") {
      throw new CredentialsError(
        `${path}: exists already, and may hold the only key to a tenant's data; choose another name or move it away`,
      );
    }
    throw error;
  }
  try {
    await handle.writeFile(`${JSON.stringify(file, null, 2)}\n`);
    await handle.sync();
  } catch (error) {
    await unlink(path).catch(() => {});
    throw error;
  } finally {
    await handle.close();
  }
  await syncFolderOf(path);
}

/** A new or changed name survives power loss from here on. */
async function syncFolderOf(path: string): Promise<void> {
  const folder = await open(dirname(path), constants.O_RDONLY | constants.O_DIRECTORY);
  try {
    await folder.sync();
  } finally {
    await folder.close();
  }
}

/** Puts `file` in the place of the one at `path`, whole or not at all; on disk when it returns. @throws the system's error */
async function replaceCredentialsFile(path: string, file: CredentialsFile): Promise<void> {
  const aside = `${path}.new-${process.pid}`;
  await writeCredentialsFile(aside, file);
  try {
    await rename(aside, path);
  } catch (error) {
    await unlink(aside).catch(() => {});
    throw error;
  }
  await syncFolderOf(path);
}

/** Gives the file a new certificate of the same tenant; the KEK stays as it is, and no passphrase is needed. @throws CredentialsError */
export async function renewCredentialsFile(path: string, { cert, key }: Pick<Credentials, "cert" | "key">): Promise<void> {
  const { file: before, kek } = await readFile(path);
  const file = { ...before, ...(kek === null ? {} : plainKek(kek)), cert, key };
  kek?.fill(0);
  requireWhole(path, file);
  await replaceCredentialsFile(path, file);
}

/**
 * Sets, changes or (null) removes the passphrase that the KEK is sealed under. `getNew` is called when the present one was right.
 * @throws RangeError for an empty one, CredentialsError
 */
export async function changePassphrase(
  path: string,
  getPassphrase: () => Promise<string>,
  getNew: (() => string | Promise<string>) | null,
): Promise<void> {
  const { kek: _kek, sealedKek: _sealedKek, ...rest } = (await readFile(path)).file;
  const credentials = await readCredentialsFile(path, getPassphrase);
  try {
    const passphrase = getNew === null ? null : await getNew();
    if (passphrase === "") throw new RangeError("expected a passphrase of at least one character");
    const kekPart = passphrase === null ? plainKek(credentials.kek) : await sealKek(credentials, passphrase);
    await replaceCredentialsFile(path, { ...rest, ...kekPart });
  } finally {
    credentials.kek.fill(0);
  }
}

async function readPrivateFile(path: string): Promise<Buffer> {
  // O_NONBLOCK: opening a fifo by mistake must not hang. The mode is asked of the open file, not of the path.
  const handle = await open(path, constants.O_RDONLY | constants.O_NONBLOCK).catch((error: NodeJS.ErrnoException) => {
    if (error.code === "ENOENT") throw new CredentialsError(`${path}: no such file; make one with: kiseki tenant create`);
    if (error.code === "EACCES") throw new CredentialsError(`${path}: permission denied; run as the user that owns the file`);
    throw new CredentialsError(`${path}: ${error.message}`, { cause: error });
  });
  try {
    const stat = await handle.stat();
    if (!stat.isFile()) throw new CredentialsError(`${path}: not a regular file`);
    if ((stat.mode & MODE_OTHERS) !== 0) {
      throw new CredentialsError(`${path}: group or others may use this file; run: chmod 600 ${path}`);
    }
    if (stat.size > FILE_MAX_BYTES) throw new CredentialsError(`${path}: too long for a credentials file`);
    // Into one buffer of ours: readFile leaves copies behind.
    const bytes = Buffer.alloc(stat.size);
    let length = 0;
    for (let got = -1; got !== 0 && length < bytes.length; length += got) {
      got = (await handle.read(bytes, length, bytes.length - length, length)).bytesRead;
    }
    return bytes.subarray(0, length);
  } finally {
    await handle.close();
  }
}

async function openSealedKek(path: string, file: CredentialsFile, getPassphrase: () => Promise<string>): Promise<Uint8Array> {
  const sealed = file.sealedKek;
  if (sealed === undefined) throw new Error("expected a sealed KEK");
  const passphrase = await getPassphrase();
  const wrapping = await passphraseKey(passphrase, Buffer.from(sealed.salt, "base64"), sealed.argon2id);
  // noble wants plain Uint8Arrays at any alignment; a Buffer from the pool is one.
  const cipher = xchacha20poly1305(wrapping, Buffer.from(sealed.nonce, "base64"), sealedKekContext(file.cluster, file.tenant));
  try {
    return cipher.decrypt(Buffer.from(sealed.ciphertext, "base64"));
  } catch {
    throw new CredentialsError(`${path}: wrong passphrase (or the file was changed)`);
  } finally {
    wrapping.fill(0);
  }
}

/** A file's content; where the KEK stands in it open, it is taken out as bytes, and zeros stand in its place. */
interface ReadFile {
  readonly file: CredentialsFile;
  readonly kek: Uint8Array | null;
}

async function readFile(path: string): Promise<ReadFile> {
  const bytes = await readPrivateFile(path);
  const kek = takeKek(bytes);
  const text = bytes.toString("utf8");
  bytes.fill(0);
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch {
    // JSON.parse quotes the text that it fails at, which may be key material: no cause.
    throw new CredentialsError(`${path}: not a credentials file (not JSON)`);
  }
  const parsed = fileSchema.safeParse(json);
  if (!parsed.success) throw new CredentialsError(`${path}: not a credentials file (${describe(parsed.error)})`);
  requireWhole(path, parsed.data);
  return { file: parsed.data, kek };
}

const BASE64_DIGITS = Buffer.from("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/");
/** 32 bytes: 43 digits and one "=". */
const KEK_DIGITS = 43;
const SEXTET_BITS = 6;

/**
 * The KEK out of a credentials file's bytes, where zeros are written in its place: as text it could not be overwritten. null: it does not stand there
 * as kiseki writes it, which the check of the file's form finds.
 */
function takeKek(bytes: Buffer): Uint8Array | null {
  const name = bytes.indexOf('"kek"');
  if (name < 0) return null;
  let from = name + '"kek"'.length;
  for (const mark of [":", '"']) {
    while (bytes[from] !== undefined && " \t\r\n".includes(String.fromCharCode(bytes[from] as number))) from++;
    if (bytes[from++] !== mark.charCodeAt(0)) return null;
  }
  const digits = bytes.subarray(from, from + KEK_DIGITS);
  const kek = new Uint8Array(KEK_BYTES);
  let waiting = 0;
  let bits = 0;
  let at = 0;
  for (const digit of digits) {
    const value = BASE64_DIGITS.indexOf(digit);
    if (value < 0) return null;
    waiting = ((waiting << SEXTET_BITS) | value) & 0xfff;
    bits += SEXTET_BITS;
    if (bits < 8) continue;
    bits -= 8;
    kek[at++] = (waiting >>> bits) & 0xff;
  }
  if (at !== KEK_BYTES) return null;
  digits.fill("A");
  return kek;
}

/**
 * A file that says another tenant than its certificate does, or whose parts don't belong together, was put together by hand: it would reach one
 * tenant's node with another's keys.
 */
function requireWhole(path: string, { cluster, tenant, ca, cert, key }: CredentialsFile): void {
  const wrong = (what: string): CredentialsError =>
    new CredentialsError(`${path}: was changed by hand (${what}); use the file as kiseki tenant create or renew made it`);
  let own: X509Certificate;
  let issuer: X509Certificate;
  let isOwnKey: boolean;
  try {
    own = new X509Certificate(cert);
    issuer = new X509Certificate(ca);
    isOwnKey = own.checkPrivateKey(createPrivateKey(key));
  } catch {
    throw wrong("a certificate or key can't be read");
  }
  const name = own.subjectAltName ?? "no name";
  if (name !== `URI:spiffe://${cluster}/tenant/${tenant}`) throw wrong(`it says tenant ${tenant} of ${cluster}, its certificate ${name}`);
  if (!isOwnKey) throw wrong("its key is not that of its certificate");
  if (!own.verify(issuer.publicKey)) throw wrong("its certificate is not of its CA");
}

/** Who a credentials file makes its holder, without the KEK: no passphrase is needed. @throws CredentialsError as readCredentialsFile does */
export async function readTenantIdentity(path: string): Promise<TenantIdentity> {
  const { cluster, tenant, ca, cert, key } = (await readFile(path)).file;
  return { cluster, tenant, ca, cert, key };
}

/**
 * Reads a credentials file and opens its KEK. `getPassphrase` is called only where the KEK is sealed.
 * @throws CredentialsError: missing, readable by others, malformed, or the wrong passphrase.
 */
export async function readCredentialsFile(path: string, getPassphrase: () => Promise<string>): Promise<Credentials> {
  const { file, kek: open } = await readFile(path);
  const inText = file.kek === undefined ? null : Uint8Array.from(Buffer.from(file.kek, "base64"));
  const kek = open ?? inText ?? (await openSealedKek(path, file, getPassphrase));
  lockMemory(kek);
  const { cluster, tenant, ca, cert, key } = file;
  return { cluster, tenant, ca, cert, key, kek };
}
