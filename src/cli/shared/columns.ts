/** Tables for a terminal. */

export type Row = readonly string[];

/** Columns of the widest cell's width; the first to the left, the others to the right, unless `left` says otherwise of one. */
export function columns(rows: readonly Row[], left: (column: number) => boolean = (column) => column === 0): string[] {
  const widths: number[] = [];
  for (const row of rows) for (const [i, cell] of row.entries()) widths[i] = Math.max(widths[i] ?? 0, cell.length);
  return rows.map((row) =>
    row
      .map((cell, i) => (left(i) ? cell.padEnd(widths[i] ?? 0) : cell.padStart(widths[i] ?? 0)))
      .join("  ")
      .trimEnd(),
  );
}
