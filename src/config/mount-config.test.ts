import { expect, test } from "bun:test";
import { ConfigError } from "./config-error.ts";
import { resolveMountConfig } from "./mount-config.ts";
import { type GivenOption, longOption, type MountOptionName } from "./mount-options.ts";

type Texts = Partial<Record<MountOptionName, string>>;

function options(texts: Texts, source: (name: string) => string = longOption): GivenOption[] {
  return Object.entries(texts).map(([name, text]) => ({ name: name as MountOptionName, text, source: source(name) }));
}

const NEEDED: Texts = { data_addr: "node:9100", tenant: "acme" };
const resolved = (...layers: Texts[]) =>
  resolveMountConfig(
    "/mnt",
    [...layers, NEEDED].map((texts) => options(texts)),
    [],
  );

test("defaults", () => {
  expect(resolved()).toMatchObject({
    mountpoint: "/mnt",
    dataAddresses: [{ host: "node", port: 9100 }],
    tenant: "acme",
    namespaces: ["default"],
    credentialsPath: null,
    cacheMode: null,
    cacheDir: process.geteuid?.() === 0 ? "/tmp/kiseki-cache" : `/tmp/kiseki-cache-${process.geteuid?.()}`,
    cacheL1MaxBytes: 256 * 2 ** 20,
    cacheL2MaxBytes: null,
    cachePoolId: null,
    workload: null,
    metricsAddress: null,
    metaTtlMs: null,
    attrTimeoutMs: null,
    entryTimeoutMs: null,
    uid: null,
    gid: null,
    readOnly: false,
    allowOther: false,
    nonEmpty: false,
    writebackCache: false,
    logLevel: "info",
  });
});

test("the stronger layer wins: option, then environment, then default", () => {
  expect(resolved({ cache_mode: "pinned" }, { cache_mode: "bypass" }).cacheMode).toBe("pinned");
  expect(resolved({}, { cache_mode: "bypass" }).cacheMode).toBe("bypass");
});

test("times: milliseconds for meta_ttl_ms, seconds for the kernel's", () => {
  expect(resolved({ meta_ttl_ms: "100", entry_timeout: "0.5" })).toMatchObject({
    metaTtlMs: 100,
    attrTimeoutMs: null,
    entryTimeoutMs: 500,
  });
});

test("a workload's name, and where statistics are served", () => {
  expect(resolved({ workload: "Train-7", metrics: "[::1]:9400" })).toMatchObject({
    workload: "Train-7",
    metricsAddress: { host: "::1", port: 9400 },
  });
});

test("namespaces and addresses given several times in one layer add up", () => {
  const twice = [...options({ namespace: "a", data_addr: "n1:1" }), ...options({ namespace: "b", data_addr: "n2:2" })];
  const config = resolveMountConfig("/mnt", [twice, options({ ...NEEDED, namespace: "env" })], []);
  expect(config.namespaces).toEqual(["a", "b"]);
  expect(config.dataAddresses.map(({ host }) => host)).toEqual(["n1", "n2"]);
  expect(resolved({ namespace: "all" }).namespaces).toBe("all");
});

test.each([
  [{ cache_mode: "foo" }, '--cache-mode: expected pinned, organic or bypass, got "foo"'],
  [{ cache_l1_max: "1M" }, '--cache-l1-max: expected a size from 16M to 1T, such as 256M or 50G, got "1M"'],
  [{ cache_l2_max: "lots" }, '--cache-l2-max: expected a size from 0 to 1P, such as 256M or 50G, got "lots"'],
  [{ meta_ttl_ms: "5s" }, '--meta-ttl-ms: expected milliseconds from 0 to 3600000, got "5s"'],
  [{ uid: "-1" }, '--uid: expected a user number from 0 to 4294967294, got "-1"'],
  [{ ro: "yes" }, '--ro: expected true or false, got "yes"'],
  [{ default_permissions: "false" }, "--default-permissions: expected true: the kernel always checks permissions"],
  [{ cache_dir: "cache" }, '--cache-dir: expected an absolute path, got "cache"'],
  [{ log_level: "loud" }, '--log-level: expected trace, debug, info, warn, error or fatal, got "loud"'],
  [{ tenant: "../x" }, '--tenant: expected a tenant\'s name: a to z, 0 to 9, and . _ - inside, got "../x"'],
  [{ namespace: "a,all" }, "--namespace: expected different names of namespaces"],
  [{ namespace: "a,a" }, "--namespace: expected different names of namespaces"],
  [{ data_addr: "node:port" }, "--data-addr: expected HOST:PORT[,HOST:PORT...]"],
  [{ workload: "a/b" }, '--workload: expected a name: letters, digits, and . _ - inside, got "a/b"'],
  [{ metrics: "127.0.0.1" }, "--metrics: expected HOST:PORT"],
  [{ metrics: "::1" }, "--metrics: expected HOST:PORT"],
  [{ metrics: "a:1,b:2" }, "--metrics: expected HOST:PORT"],
  [{ cache_pool_id: "x" }, "--cache-pool-id: expected 32 hexadecimal digits"],
] satisfies [Texts, string][])("%o is refused with the option, the value and what is allowed", (texts, message) => {
  expect(() => resolved(texts)).toThrow(ConfigError);
  expect(() => resolved(texts)).toThrow(message);
});

test("the message names where the value was set", () => {
  const env = options({ cache_mode: "foo" }, () => "KISEKI_CACHE_MODE");
  expect(() => resolveMountConfig("/mnt", [env, options(NEEDED)], [])).toThrow(/^KISEKI_CACHE_MODE: /);
});

test("a cache folder inside the mount is refused, one beside it is not", () => {
  expect(() => resolved({ cache_dir: "/mnt/cache" })).toThrow("lies inside the mountpoint");
  expect(() => resolved({ cache_dir: "/srv/../mnt" })).toThrow("lies inside the mountpoint");
  expect(resolved({ cache_dir: "/mnt2/cache/" }).cacheDir).toBe("/mnt2/cache");
});

test("without a node or a tenant the message says how to name one", () => {
  expect(() => resolveMountConfig("/mnt", [options({ tenant: "acme" })], [])).toThrow("KISEKI_DATA_ADDR");
  expect(() => resolveMountConfig("/mnt", [options({ data_addr: "n" })], [])).toThrow("KISEKI_TENANT");
  expect(resolveMountConfig("/mnt", [options({ data_addr: "n", credentials: "/c.json" })], []).tenant).toBeNull();
});

test("the settings survive JSON, in which they reach the background process", () => {
  const config = resolved({ namespace: "a,b", uid: "7" });
  expect(JSON.parse(JSON.stringify(config))).toEqual(config);
});
