import { expect, test } from "bun:test";
import { ConfigError } from "./config-error.ts";
import { MOUNT_OPTIONS, mountOptionsOfEnvironment, parseMountWords } from "./mount-options.ts";

const texts = (...words: string[]) => parseMountWords(words).given.map(({ name, text }) => `${name}=${text}`);

test("-o words are options of this table; flags need no value", () => {
  expect(texts("cache_mode=bypass,ro,allow_other=false", "uid=5")).toEqual(["cache_mode=bypass", "ro=true", "allow_other=false", "uid=5"]);
});

test("a backslash keeps a comma in a value", () => {
  expect(texts("data_addr=a:1\\,b:2,ro")).toEqual(["data_addr=a:1,b:2", "ro=true"]);
});

test("the words of mount(8) and fstab are taken", () => {
  const words = "defaults,_netdev,nofail,noauto,nouser,x-systemd.automount,x-gvfs-show,relatime,async,comment=hello";
  expect(parseMountWords([words])).toEqual({
    given: [{ name: "ro", text: "false", source: "-o rw" }],
    kernelFlags: ["suid", "dev"],
    remount: null,
  });
  expect(parseMountWords(["nodev,nosuid,noexec,noatime"]).kernelFlags.toSorted()).toEqual(["noatime", "nodev", "noexec", "nosuid"]);
});

test("the later of two contrary words counts", () => {
  expect(parseMountWords(["nodev,dev,suid,nosuid"]).kernelFlags).toEqual(["dev", "nosuid"]);
  expect(texts("ro,rw").at(-1)).toBe("ro=false");
});

test("user implies noexec, nosuid and nodev, unless a later word says otherwise", () => {
  expect(parseMountWords(["user"]).kernelFlags.toSorted()).toEqual(["nodev", "noexec", "nosuid"]);
  expect(parseMountWords(["users,exec"]).kernelFlags.toSorted()).toEqual(["nodev", "nosuid"]);
});

test("a remount names the words for the kernel, and leaves all else alone", () => {
  expect(parseMountWords(["rw,user_id=0,nosuid,remount,cache_l1_max=1G", "ro"]).remount).toEqual(["rw", "nosuid", "ro"]);
});

test("an unknown word is refused by its name, unless mount is sloppy", () => {
  expect(() => parseMountWords(["ro,cache_l3_max=1G"])).toThrow(
    new ConfigError("-o cache_l3_max=1G: unknown mount option; see: kiseki mount --help"),
  );
  expect(() => parseMountWords(["constructor"])).toThrow(ConfigError);
  expect(parseMountWords(["cache_l3_max=1G,ro"], true).given).toHaveLength(1);
});

test("pool_id is another word for cache_pool_id; messages call it as it was written", () => {
  expect(parseMountWords(["pool_id=x"]).given).toEqual([{ name: "cache_pool_id", text: "x", source: "-o pool_id" }]);
});

test("an option without its value is refused with what it takes", () => {
  expect(() => parseMountWords(["cache_dir"])).toThrow("-o cache_dir: expected cache_dir=DIR");
});

test("environment variables of the table are read, empty ones are not", () => {
  expect(mountOptionsOfEnvironment({ KISEKI_CACHE_META_TTL_MS: "7", KISEKI_TENANT: "", KISEKI_OTHER: "x" })).toEqual([
    { name: "meta_ttl_ms", text: "7", source: "KISEKI_CACHE_META_TTL_MS" },
  ]);
});

test("the README lists every option, its variable and its default", async () => {
  const readme = await Bun.file("README.md").text();
  for (const option of MOUNT_OPTIONS) {
    const row = readme.split("\n").find((line) => line.startsWith(`| \`${option.name}\``));
    expect(row, option.name).toBeDefined();
    if ("env" in option) expect(row).toContain(option.env);
    if ("fallback" in option) expect(row).toContain(`\`${option.fallback}\``);
  }
});
