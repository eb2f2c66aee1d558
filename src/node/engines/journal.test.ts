import { afterEach, beforeEach, expect, test } from "bun:test";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { Journal } from "./journal.ts";
import { type DeltaEffects, EntryWriter, entryBytes, type JournalEntry, readEntry } from "./journal-entry.ts";

const MARK = Buffer.from("kj!mark!");
const SESSION = new Uint8Array(16).fill(9);
let folder: string;
let path: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "kiseki-journal-"));
  path = join(folder, "j");
});
afterEach(() => rmSync(folder, { recursive: true }));

function effects(id: number, valueBytes = 100): DeltaEffects {
  const puts = [{ key: new Uint8Array(10).fill(id), link: id, chunks: [], value: new Uint8Array(valueBytes).fill(id) }];
  return { id, answeredBelow: 0, puts, deletes: [], deletePrefixes: [], bumps: [] };
}
function entry(seq: number, syncedSeq = 0, previousSeq = seq - 1): JournalEntry {
  return { session: SESSION, delta: effects(seq), seq, previousSeq, syncedSeq, timeMs: 5 };
}
function append(journal: Journal, ...entries: JournalEntry[]): void {
  const writer = new EntryWriter(MARK);
  for (const each of entries) writer.add(each);
  journal.reserve(writer.bytes.length);
  journal.append(writer, entries.at(-1)?.seq ?? 0);
}
function started(): Journal {
  const journal = new Journal(path, MARK);
  journal.clear();
  return journal;
}
/** What the next process finds. */
function found(after: number): number[] {
  const journal = new Journal(path, MARK);
  try {
    return journal.entriesAfter(after).map(({ seq }) => seq);
  } finally {
    journal.close();
  }
}

const blob = (maxLength: number, minLength = 0) => fc.uint8Array({ minLength, maxLength });
const number = fc.maxSafeNat();
const delta = fc.record({
  id: number,
  answeredBelow: number,
  puts: fc.array(fc.record({ key: blob(64, 1), link: number, chunks: fc.array(blob(32, 32), { maxLength: 3 }), value: blob(300) })),
  deletes: fc.array(blob(64, 1)),
  deletePrefixes: fc.array(blob(64, 1)),
  bumps: fc.array(
    fc.record({ ino: number, links: fc.integer(), entries: fc.integer(), mtimeSec: fc.maxSafeInteger(), mtimeNsec: fc.nat(999_999_999) }),
  ),
});

test("every delta comes back as it was", () => {
  fc.assert(
    fc.property(fc.array(delta, { minLength: 1, maxLength: 3 }), (deltas) => {
      const writer = new EntryWriter(MARK);
      const entries = deltas.map((each, i) => ({ session: SESSION, delta: each, seq: i + 2, previousSeq: i + 1, syncedSeq: i, timeMs: 3 }));
      for (const each of entries) writer.add(each);
      expect(writer.bytes.length).toBe(deltas.reduce((sum, each) => sum + entryBytes(each), 0));
      const file = Buffer.from(writer.bytes);
      let at = 0;
      for (const each of entries) {
        const read = readEntry(file, at, MARK);
        expect(read?.entry).toEqual(each);
        at = read?.end ?? 0;
      }
      expect(at).toBe(file.length);
    }),
  );
});

test("a changed or cut entry is none", () => {
  const writer = new EntryWriter(MARK);
  writer.add(entry(7));
  const whole = Buffer.from(writer.bytes);
  for (let i = 0; i < whole.length; i++) {
    expect(readEntry(whole.subarray(0, i), 0, MARK)).toBeNull();
    const changed = Buffer.from(whole);
    changed[i] = (changed[i] ?? 0) ^ 1;
    expect(readEntry(changed, 0, MARK)).toBeNull();
  }
});

test("entries outlive the process, in order over both files, without those that the database has", () => {
  const journal = started();
  append(journal, entry(1), entry(2));
  append(journal, entry(3));
  expect(found(0)).toEqual([1, 2, 3]);
  journal.turn();
  append(journal, entry(4), entry(5));
  expect(found(0)).toEqual([1, 2, 3, 4, 5]);
  expect(found(2)).toEqual([3, 4, 5]);
  expect(found(5)).toEqual([]);
  expect(journal.canTurn).toBeFalse();
  journal.release();
  journal.turn();
  // The first file again: behind 6, entries 2 and 3 of its earlier turn.
  append(journal, entry(6));
  expect(found(3)).toEqual([4, 5, 6]);
  journal.close();
});

test("a torn last entry is as if it had not been written, wherever it was torn", () => {
  const journal = started();
  append(journal, entry(1), entry(2));
  const end = journal.length;
  append(journal, entry(3));
  journal.close();
  const file = readFileSync(`${path}-0`);
  const length = entryBytes(effects(3));
  for (let kept = 0; kept < length; kept++) {
    const torn = Buffer.from(file);
    torn.fill(0, end + kept, end + length);
    // The entry's last bytes may be zeros themselves.
    const lost = !torn.equals(file);
    writeFileSync(`${path}-0`, torn);
    expect(found(0)).toEqual(lost ? [1, 2] : [1, 2, 3]);
  }
});

test("entries behind a gap do not count, and a gap in what was on disk is damage", async () => {
  const journal = started();
  append(journal, entry(1), entry(2));
  await journal.sync();
  expect(journal.syncedSeq).toBe(2);
  append(journal, entry(3, journal.syncedSeq), entry(4, journal.syncedSeq));
  journal.close();
  const file = readFileSync(`${path}-0`);
  const length = entryBytes(effects(1));
  const without = (n: number) => {
    const changed = Buffer.from(file);
    changed.fill(0xff, (n - 1) * length + 20, n * length);
    writeFileSync(`${path}-0`, changed);
  };
  without(3);
  expect(found(0)).toEqual([1, 2]);
  without(2);
  expect(() => found(0)).toThrow(expect.objectContaining({ code: "damaged" }));
  // Unless the database has it.
  expect(found(2)).toEqual([3, 4]);
});

test("an entry of a refused delta is not taken for the one that came in its place", () => {
  const journal = started();
  append(journal, entry(1));
  // Numbers 2 and 3 were used by a turn that failed after they had been written.
  const end = journal.length;
  const failed = new EntryWriter(MARK);
  for (const seq of [2, 3]) failed.add(entry(seq));
  append(journal, entry(4, 0, 1));
  journal.close();
  const file = readFileSync(`${path}-0`);
  const old = Buffer.from(failed.bytes).subarray(entryBytes(effects(2)));
  old.copy(file, end + entryBytes(effects(4)));
  writeFileSync(`${path}-0`, file);
  expect(found(0)).toEqual([1, 4]);
});

test("an entry of a refused delta that stays behind is not taken for the one that came later, elsewhere", () => {
  for (const turned of [false, true]) {
    const journal = started();
    append(journal, entry(1), entry(2));
    // Number 3 was refused: it could not be written whole, nor be erased, as the disk failed.
    const end = journal.length;
    const refused = new EntryWriter(MARK);
    refused.add(entry(3));
    // The database has been brought up to 2, and the file begins anew.
    if (turned) journal.turn();
    else journal.clear();
    append(journal, entry(4, 0, 2));
    append(journal, entry(5, 4, 4));
    journal.close();
    const file = readFileSync(`${path}-0`);
    refused.bytes.copy(file, turned ? end : 3 * end);
    writeFileSync(`${path}-0`, file);
    expect(found(2)).toEqual([4, 5]);
    rmSync(`${path}-0`);
    rmSync(`${path}-1`);
  }
});
