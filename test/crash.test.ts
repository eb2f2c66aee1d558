/**
 * kill -9 of the client and of the node at random moments while several processes write: what close(), fsync() and rename() acknowledged is
 * there afterwards, the rest is old or new and never torn, the tree is consistent, and `kiseki serve --verify` finds no damage.
 * KISEKI_TEST_SEED repeats a run (as far as time repeats), KISEKI_TEST_CRASHES sets how many.
 */
import { afterAll, expect, test } from "bun:test";
import { join } from "node:path";
import { Driver } from "./random/driver.ts";
import { Chance, CRASHES, howToRepeat, SEED } from "./random/settings.ts";
import { cleanUp, KISEKI, run, TestMount, TestNode, tempFolder } from "./support/harness.ts";

const WRITERS = 3;
/** From the start of the writers to the kill. */
const KILL_AFTER_MIN_MS = 200;
const KILL_AFTER_MAX_MS = 1_500;
/** How long a dead node stays away: shorter than a request's deadline. */
const NODE_AWAY_MS = 300;
/** After the node is back the writers go on. */
const GO_ON_MS = 700;
const TIMEOUT_MS = 60_000 + CRASHES * 15_000;

interface Worked {
  next: number;
  error: string | null;
}
interface Verified {
  wrong: string[];
  counts: { fsync: number; close: number; rename: number; unlink: number };
}

afterAll(cleanUp);

test(
  `after ${CRASHES} times kill -9 of client or node, nothing acknowledged is lost and nothing is torn`,
  async () => {
    console.log(howToRepeat("crash"));
    const chance = new Chance(SEED);
    const node = await TestNode.start();
    let mount = await TestMount.mount(node);
    const journals = tempFolder("journals-");
    const names = Array.from({ length: WRITERS }, (_, i) => `writer-${i}`);
    const writers = names.map(() => new Driver("crasher.py"));
    await Promise.all(writers.map((one) => one.call("ready", [])));
    const checker = new Driver("racer.py");
    const journal = (who: string) => join(journals, who);
    let next = 0;
    const killed = { client: 0, node: 0 };
    let acknowledged = { fsync: 0, close: 0, rename: 0, unlink: 0 };

    const verify = async (): Promise<void> => {
      const all = await Promise.all(
        writers.map((one, i) => one.call<Verified>("verify", [mount.path, names[i], journal(names[i] as string)])),
      );
      expect(all.flatMap(({ wrong }) => wrong)).toEqual([]);
      acknowledged = { fsync: 0, close: 0, rename: 0, unlink: 0 };
      for (const { counts } of all) for (const kind of ["fsync", "close", "rename", "unlink"] as const) acknowledged[kind] += counts[kind];
      const { wrong } = await checker.call<{ wrong: string[] }>("tree", [mount.path]);
      expect(wrong).toEqual([]);
    };

    for (let crash = 0; crash < CRASHES; crash++) {
      const waitMs = KILL_AFTER_MIN_MS + chance.below(KILL_AFTER_MAX_MS - KILL_AFTER_MIN_MS);
      const victim = (["client", "node", "both"] as const)[crash % 3] as "client" | "node" | "both";
      const seconds = (waitMs + NODE_AWAY_MS + GO_ON_MS) / 1000;
      const working = writers.map((one, i) => {
        const who = names[i] as string;
        return one.call<Worked>("work", [mount.path, who, journal(who), SEED + crash * WRITERS + i, next, seconds]);
      });
      // Awaited below: a failure in between must not be an unhandled one.
      const worked = Promise.all(working);
      worked.catch(() => undefined);
      await Bun.sleep(waitMs);
      if (victim !== "client") {
        await node.kill();
        killed.node++;
      }
      if (victim !== "node") {
        await mount.kill();
        killed.client++;
      }
      if (victim !== "client") {
        await Bun.sleep(NODE_AWAY_MS);
        await node.restart();
      }
      const results = await worked;
      // Writers notice the death of their client, not that of the node.
      if (victim === "node") expect(results.map(({ error }) => error)).toEqual(names.map(() => null));
      next = Math.max(...results.map((one) => one.next));
      if (victim !== "node") mount = await TestMount.mount(node, { path: mount.path });
      await verify();
    }

    console.log(`killed ${JSON.stringify(killed)}, acknowledged ${JSON.stringify(acknowledged)}`);
    expect(killed.client).toBeGreaterThan(0);
    expect(killed.node).toBeGreaterThan(0);
    for (const count of Object.values(acknowledged)) expect(count).toBeGreaterThan(0);
    await mount.unmount();
    await node.stop();
    const verified = await run(KISEKI, ["serve", "--verify", "--data-dir", node.dataDir]);
    expect({ status: verified.status, stderr: verified.stderr, stdout: verified.stdout }).toMatchObject({ status: 0 });
  },
  TIMEOUT_MS,
);
