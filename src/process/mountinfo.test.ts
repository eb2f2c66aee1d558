import { expect, test } from "bun:test";
import { mountAt, mountOf, parseMountinfo, readMounts } from "./mountinfo.ts";

const TEXT = `22 27 0:21 / /proc rw,relatime - proc proc rw
36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 shared:7 - ext3 /dev/root rw,errors=continue
90 27 0:55 / /mnt/with\\040space\\134and\\011tab rw,nosuid - fuse.kiseki node:9100/t/n rw,user_id=0
91 27 0:56 / /mnt/\xe9\\040\xe3\x81\x82 rw - fuse.kiseki a rw
92 90 0:57 / /mnt2 rw - fuse.kiseki on-top rw
`;

test("fields are found whatever number of optional ones there is", () => {
  const entries = parseMountinfo(TEXT);
  expect(entries.length).toBe(5);
  expect(entries[1]).toEqual({
    device: "98:0",
    mountpoint: "/mnt2",
    options: "rw,noatime",
    type: "ext3",
    source: "/dev/root",
    superOptions: "rw,errors=continue",
  });
});

test("octal escapes are undone", () => {
  expect(parseMountinfo(TEXT)[2]?.mountpoint).toBe("/mnt/with space\\and\ttab");
});

test("of several mounts on one folder the last is found", () => {
  expect(mountAt("/mnt2", parseMountinfo(TEXT))?.source).toBe("on-top");
  expect(mountAt("/nothing", parseMountinfo(TEXT))).toBeNull();
});

test("a path lies in the mount with the longest name above it, the last of several", () => {
  const mounts = parseMountinfo(`20 1 8:1 / / rw - ext4 /dev/sda rw\n${TEXT}`);
  expect(mountOf("/mnt2/a/b", mounts)?.source).toBe("on-top");
  expect(mountOf("/mnt22", mounts)?.type).toBe("ext4");
  expect(mountOf("/mnt/with space\\and\ttab", mounts)?.type).toBe("fuse.kiseki");
});

test("this machine's own list is read", () => {
  expect(mountAt("/proc", readMounts())?.type).toBe("proc");
});
