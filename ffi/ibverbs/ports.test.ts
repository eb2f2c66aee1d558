/** Which port is taken, from folders like the kernel's. */
import { afterEach, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { rdmaPorts } from "./ports.ts";

const folders: string[] = [];
afterEach(() => {
  for (const folder of folders.splice(0)) rmSync(folder, { recursive: true });
});

const LINK_LOCAL = "fe80:0000:0000:0000:0202:c9ff:fe00:0001";
const mapped = (hex: string) => `0000:0000:0000:0000:0000:ffff:${hex}`;

interface Port {
  readonly state?: string;
  readonly layer?: string;
  readonly rate?: string;
  readonly numa?: number;
  readonly gids?: readonly (readonly [gid: string, type?: string])[];
}

function machine(ports: Record<string, Port>): string {
  const sys = mkdtempSync(join(tmpdir(), "kiseki-ports-"));
  folders.push(sys);
  const root = join(sys, "class", "infiniband");
  const put = (path: string, text: string) => {
    mkdirSync(dirname(path), { recursive: true });
    writeFileSync(path, `${text}\n`);
  };
  for (const [name, { state = "4: ACTIVE", layer = "Ethernet", rate = "100 Gb/sec (4X EDR)", numa, gids = [] }] of Object.entries(ports)) {
    const [device = "", port = ""] = name.split(":");
    const folder = join(root, device, "ports", port);
    put(join(folder, "state"), state);
    put(join(folder, "link_layer"), layer);
    put(join(folder, "rate"), rate);
    if (numa !== undefined) put(join(root, device, "device", "numa_node"), String(numa));
    mkdirSync(join(folder, "gids"), { recursive: true });
    for (const [i, [gid, type]] of gids.entries()) {
      put(join(folder, "gids", String(i)), gid);
      if (type !== undefined) put(join(folder, "gid_attrs", "types", String(i)), type);
    }
  }
  // Two processors on each of two NUMA nodes; the process runs on one of the second.
  put(join(sys, "devices/system/node/node0/cpulist"), "0,2");
  put(join(sys, "devices/system/node/node1/cpulist"), "4-5");
  put(join(sys, "status"), "Name:\tkiseki\nCpus_allowed_list:\t5");
  return sys;
}

const portsOf = (source: string | null, sys: string) => rdmaPorts(source, sys, join(sys, "status"));

const ROCE = [
  [LINK_LOCAL, "IB/RoCE v1"],
  [LINK_LOCAL, "RoCE v2"],
  [mapped("0a00:0001"), "IB/RoCE v1"],
  [mapped("0a00:0001"), "RoCE v2"],
] as const;

test("nothing there: no port", () => {
  expect(portsOf(null, "/no/such/folder")).toEqual([]);
  expect(portsOf(null, machine({ "mlx5_0:1": { state: "1: DOWN", gids: ROCE } }))).toEqual([]);
});

test("RoCE: version 2, by the IPv4 address", () => {
  expect(portsOf(null, machine({ "mlx5_0:1": { gids: ROCE, numa: 1 } }))).toEqual([
    { device: "mlx5_0", port: 1, gidIndex: 3, linkLayer: "Ethernet", gbps: 100, isNear: true },
  ]);
});

test("InfiniBand before RoCE, then the fastest, then by number", () => {
  const ports = portsOf(
    null,
    machine({
      "mlx5_10:1": { gids: ROCE },
      "mlx5_2:1": { gids: ROCE },
      "mlx5_3:1": { gids: ROCE, rate: "200 Gb/sec (4X HDR)" },
      "mlx5_4:1": { layer: "InfiniBand", gids: [[LINK_LOCAL]] },
    }),
  );
  expect(ports.map(({ device }) => device)).toEqual(["mlx5_4", "mlx5_3", "mlx5_2", "mlx5_10"]);
  expect(ports[0]).toMatchObject({ linkLayer: "InfiniBand", gidIndex: 0 });
});

test("near before fast; what hangs nowhere in particular is near", () => {
  const ports = portsOf(
    null,
    machine({
      "mlx5_0:1": { gids: ROCE, numa: 0, rate: "400 Gb/sec (4X NDR)" },
      "mlx5_1:1": { gids: ROCE, numa: 1 },
      "mlx5_2:1": { gids: ROCE, numa: -1 },
      "mlx5_3:1": { gids: ROCE },
    }),
  );
  expect(ports.map(({ device, isNear }) => [device, isNear])).toEqual([
    ["mlx5_1", true],
    ["mlx5_2", true],
    ["mlx5_3", true],
    ["mlx5_0", false],
  ]);
});

test("a node of memory alone is near to nobody", () => {
  const sys = machine({ "mlx5_0:1": { gids: ROCE, numa: 2 }, "mlx5_1:1": { gids: ROCE, numa: 0 } });
  mkdirSync(join(sys, "devices/system/node/node2"));
  writeFileSync(join(sys, "devices/system/node/node2/cpulist"), "\n");
  writeFileSync(join(sys, "status"), "Cpus_allowed_list:\t0-1\n");
  expect(portsOf(null, sys).map(({ device, isNear }) => [device, isNear])).toEqual([
    ["mlx5_1", true],
    ["mlx5_0", false],
  ]);
});

test("by address or device: that one, and none where nobody has it", () => {
  const root = machine({
    "mlx5_0:1": { gids: ROCE },
    "mlx5_0:2": { gids: [[mapped("0a00:0002"), "RoCE v2"]] },
    "mlx5_1:1": { gids: [["2001:0db8:0000:0000:0000:0000:0000:0005", "RoCE v2"]] },
    "mlx5_2:1": { layer: "InfiniBand", gids: [[LINK_LOCAL]] },
  });
  const names = (source: string) => portsOf(source, root).map(({ device, port, gidIndex }) => `${device}:${port} ${gidIndex}`);
  expect(names("10.0.0.1")).toEqual(["mlx5_0:1 3"]);
  expect(names("10.0.0.2")).toEqual(["mlx5_0:2 0"]);
  expect(names("2001:db8::5")).toEqual(["mlx5_1:1 0"]);
  expect(names("10.0.0.9")).toEqual([]);
  expect(names("mlx5_0")).toEqual(["mlx5_0:1 3", "mlx5_0:2 0"]);
  expect(names("mlx5_0:2")).toEqual(["mlx5_0:2 0"]);
  expect(names("mlx5_2")).toEqual(["mlx5_2:1 0"]);
  expect(names("mlx5_9")).toEqual([]);
});

test("entries that are empty are not taken", () => {
  const empty = "0000:0000:0000:0000:0000:0000:0000:0000";
  expect(
    rdmaPorts(
      null,
      machine({
        "rxe0:1": {
          gids: [
            [empty, ""],
            ["", ""],
          ],
        },
      }),
    ),
  ).toEqual([]);
});
