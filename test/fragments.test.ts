/**
 * Files of very many small pieces: 512 bytes in every KiB, so that one region of 64 MiB has more extents than a record may hold and the
 * client gathers them (src/fs/content/compaction.ts). The witness is an array of bytes.
 */
import { expect, test } from "bun:test";
import { KISEKI, run, TestMount } from "./support/harness.ts";
import { PosixLab, py } from "./support/posix.ts";

const TIMEOUT_MS = 120_000;

/** The least that is allowed: a region's worth of gathered pieces does not fit. */
const LITTLE_MEMORY = ["--cache-l1-max", "16M"];

const lab = new PosixLab({ mount: { args: LITTLE_MEMORY } });

/** The writes and what they must lead to. Each process that looks makes the model anew: it depends on nothing but `rounds`. */
const MODEL = py`
  import random
  KIB, MIB = 1 << 10, 1 << 20
  SIZE, PIECE, STEP = 24 * MIB, 512, KIB
  OVERWRITES = 6_000
  DATA = pattern(MIB)
  def rounds():
      """Lists of (offset, length, where in DATA); each list ends with an fsync."""
      dice = random.Random(11)
      places = list(range(0, SIZE, STEP)); dice.shuffle(places)
      quarter = len(places) // 4
      for i in range(4): yield [(at, PIECE, at % (MIB - PIECE)) for at in places[i * quarter:(i + 1) * quarter]]
      for i in range(2):
          lengths = [dice.choice([1, 100, PIECE, 700, 5_000]) for _ in range(OVERWRITES)]
          yield [(dice.randrange(SIZE - 5_000), length, dice.randrange(MIB - 5_000)) for length in lengths]
  def model():
      expected = bytearray()
      for round in rounds():
          for at, length, source in round:
              if len(expected) < at + length: expected.extend(bytes(at + length - len(expected)))
              expected[at:at + length] = DATA[source:source + length]
      return bytes(expected)
  def check(path):
      expected, found = model(), get(path)
      show("size", len(found) == len(expected))
      show("first difference", next((i for i in range(0, len(expected), KIB) if found[i:i + KIB] != expected[i:i + KIB]), None))
      show("allocated", "right" if len(expected) // 2 <= blocks(path) * KIB <= len(expected) + MIB else f"{blocks(path)} KiB")
`;

const RIGHT = ["size: True", "first difference: None", "allocated: right"];

lab.prints(
  "140,000 pieces with holes between them in one region: more than its record could name one by one",
  py`
    PIECE, STEP, COUNT = 6, 470, 140_000
    fd = os.open("f", os.O_WRONLY | os.O_CREAT, 0o644)
    for i in range(COUNT): os.pwrite(fd, b"%06d" % i, i * STEP)
    do("fsync", os.fsync, fd); os.close(fd)
    data = get("f"); show("size", len(data) == (COUNT - 1) * STEP + PIECE)
    show("wrong", [i for i in range(COUNT) if data[i * STEP:(i + 1) * STEP].rstrip(b"\0") != b"%06d" % i][:5])
  `,
  ["fsync: ok", "size: True", "wrong: []"],
);

test(
  "two mounts that write their pieces into each other's holes keep all of them",
  async () => {
    await using other = await TestMount.mount(lab.node, { args: LITTLE_MEMORY });
    await lab.python(lab.mount.path, `put("shared", b"")`);
    /** Lengths that leave holes; the second mount's pieces stand where the first one's have ended. */
    const write = (who: number) => py`
      import random
      places = list(range(0, 12 << 20, 512)); random.Random(${who}).shuffle(places)
      fd = os.open("shared", os.O_WRONLY)
      for i, at in enumerate(places):
          os.pwrite(fd, b"${"AB"[who] as string}" * 200, at + ${who} * 250)
          if i % 5_000 == 4_999: os.fsync(fd)
      os.fsync(fd); os.close(fd)
    `;
    await Promise.all([lab.mount, other].map(({ path }, who) => lab.python(path, write(who))));
    const look = py`
      data = get("shared"); expected = b"A" * 200 + bytes(50) + b"B" * 200 + bytes(62)
      show("wrong", [at for at in range(0, 12 << 20, 512) if data[at:at + 512].ljust(512, b"\0") != expected][:5])
    `;
    for (const { path } of [lab.mount, other]) expect(await lab.python(path, look)).toEqual(["wrong: []"]);
    await other.unmount();
  },
  TIMEOUT_MS,
);

test(
  "24,576 pieces and random overwrites, in several fsyncs: the bytes are an array's, also after a remount, and the node is undamaged",
  async () => {
    const write = py`
      fd = os.open("f", os.O_WRONLY | os.O_CREAT, 0o644)
      for round in rounds():
          for at, length, source in round: os.pwrite(fd, DATA[source:source + length], at)
          os.fsync(fd)
      check("f")
      os.close(fd)
    `;
    const cwd = () => lab.mount.path;
    expect(await lab.python(cwd(), `${MODEL}\n${write}`, TIMEOUT_MS)).toEqual(RIGHT);
    await lab.remount();
    expect(await lab.python(cwd(), `${MODEL}\ncheck("f")`, TIMEOUT_MS)).toEqual(RIGHT);
    await lab.mount.unmount();
    await lab.node.stop();
    const { status, stdout } = await run(KISEKI, ["serve", "--data-dir", lab.node.dataDir, "--verify"]);
    expect({ status, stdout }).toEqual({ status: 0, stdout: expect.stringContaining(" 0 damages") });
  },
  3 * TIMEOUT_MS,
);
