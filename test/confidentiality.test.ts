/** What a storage node has on its disk shows nothing of names, attributes or content. */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { readdirSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { cleanUp, runOk, TestMount, TestNode } from "./support/harness.ts";

setDefaultTimeout(60_000);

const MARKER = "Quokka-7f3a91-Marker";
/** Text that would compress or repeat: nobody may see that either. */
const REPEATED = "The same line again and again.\n";
const LARGE_LINES = 300_000;

let node: TestNode;

/** Spellings in which a database or a log might keep a text. */
function spellings(text: string): Map<string, Buffer> {
  const bytes = Buffer.from(text);
  const utf16 = Buffer.from(text, "utf16le");
  return new Map([
    ["plain", bytes],
    ["UTF-16 LE", utf16],
    ["UTF-16 BE", Buffer.from(utf16).swap16()],
    ["hexadecimal", Buffer.from(bytes.toString("hex"))],
    ["hexadecimal, upper case", Buffer.from(bytes.toString("hex").toUpperCase())],
    // Of three bytes each: what stands before the text shifts its base64.
    ...[0, 1, 2].map((shift): [string, Buffer] => [
      `base64, shifted by ${shift}`,
      Buffer.from(
        Buffer.concat([Buffer.alloc(shift), bytes])
          .toString("base64")
          .slice(4, -4),
      ),
    ]),
    ["reversed", Buffer.from(bytes).reverse()],
  ]);
}

/** Every file below `folder`, also those that were made by the embedded database. */
function filesBelow(folder: string): string[] {
  return readdirSync(folder, { recursive: true, encoding: "utf8" })
    .map((name) => join(folder, name))
    .filter((path) => statSync(path).isFile());
}

/** Where `text` is found in the node's data folder, file names included. */
function findings(text: string): string[] {
  const found: string[] = [];
  const wanted = spellings(text);
  for (const path of filesBelow(node.dataDir)) {
    const content = readFileSync(path);
    for (const [spelling, bytes] of wanted) {
      if (content.includes(bytes)) found.push(`${path}: ${spelling}`);
      if (Buffer.from(path).includes(bytes)) found.push(`${path}: name, ${spelling}`);
    }
  }
  return found;
}

const FILL = `
set -e
m=${MARKER}
mkdir "$m-folder" && cd "$m-folder"
echo "$m inline" > "$m-small"
echo "$m 2" > plain-name
seq -f "$m line %.0f" ${LARGE_LINES} > large
yes "${REPEATED.trim()}" | head -c 5000000 > repeated
ln -s "/somewhere/$m/target" link
ln -s "$m-small" "$m-link"
ln "$m-small" "$m-hard"
setfattr -n "user.$m" -v value plain-name
setfattr -n user.value -v "$m value" plain-name
setfattr -n "user.$m.folder" -v "$m" .
mkfifo "$m-fifo"
mv large "$m-renamed"
echo "$m deleted" > "$m-deleted" && rm "$m-deleted"
truncate -s 100M "$m-sparse" && printf '%s tail' "$m" >> "$m-sparse"
`;

beforeAll(async () => {
  node = await TestNode.start();
});
afterAll(cleanUp);

test("the search finds a marker in each of its spellings", async () => {
  const inside = join(node.dataDir, "planted");
  for (const [spelling, bytes] of spellings("Planted-Text-0123456789")) {
    await Bun.write(inside, Buffer.concat([Buffer.from("before"), bytes, Buffer.from("after")]));
    expect(findings("Planted-Text-0123456789")).toContain(`${inside}: ${spelling}`);
  }
  await runOk("rm", [inside]);
});

test("names, content, xattrs and link targets are nowhere on the node while it runs, nor after it stopped", async () => {
  const mount = await TestMount.mount(node);
  await runOk("bash", ["-c", FILL], { cwd: mount.path });
  await runOk("sync", ["-f", mount.path]);
  expect(findings(MARKER)).toEqual([]);
  // It is there, for who has the key.
  expect(await runOk("grep", ["-rl", MARKER, mount.path])).toContain(`${MARKER}-renamed`);
  await mount.unmount();
  expect(findings(MARKER)).toEqual([]);
  expect(findings(REPEATED)).toEqual([]);
  await node.stop();
  expect(findings(MARKER)).toEqual([]);
  // What was searched does hold the data.
  const bytes = filesBelow(node.dataDir).reduce((sum, path) => sum + statSync(path).size, 0);
  expect(bytes).toBeGreaterThan(LARGE_LINES * MARKER.length);
  await node.restart();
});

test("the node's log and the mount's have no secret and no plaintext, at the most talkative level too", async () => {
  const talkative = await TestNode.start({ args: ["--log-level", "trace"] });
  const mount = await TestMount.mount(talkative, { args: ["--log-level", "trace"] });
  await runOk("bash", ["-c", FILL], { cwd: mount.path });
  await mount.unmount();
  await talkative.stop();
  const { kek, key } = JSON.parse(readFileSync(await talkative.credentials("t"), "utf8")) as { kek: string; key: string };
  const keyBody = key.split("\n")[1] ?? "";
  expect(keyBody.length).toBeGreaterThan(40);
  const logs = `${talkative.log()}${mount.log()}`;
  expect(logs.length).toBeGreaterThan(100);
  for (const secret of [kek, Buffer.from(kek, "base64").toString("hex"), keyBody, MARKER]) expect(logs).not.toContain(secret);
  const onNode = filesBelow(talkative.dataDir).filter((path) => {
    const content = readFileSync(path);
    return content.includes(kek) || content.includes(Buffer.from(kek, "base64")) || content.includes(keyBody);
  });
  expect(onNode).toEqual([]);
});
