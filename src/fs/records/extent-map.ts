/**
 * Which bytes of one file region come from where: sorted, non-overlapping extents; what none covers reads as zeros. Pure: it
 * knows nothing of what a source is, except that two pieces of one source that touch are one extent.
 */

/** Bytes [start, end) of the region are bytes [offset, offset + end - start) of the source. */
export interface Extent<S> {
  start: number;
  end: number;
  source: S;
  offset: number;
}

export class ExtentMap<S> {
  #extents: Extent<S>[] = [];

  get extents(): readonly Extent<S>[] {
    return this.#extents;
  }

  get isEmpty(): boolean {
    return this.#extents.length === 0;
  }

  /** One past the last covered byte, 0 when empty. */
  get end(): number {
    return this.#extents.at(-1)?.end ?? 0;
  }

  /** Sum of the covered bytes. */
  get coveredBytes(): number {
    let sum = 0;
    for (const extent of this.#extents) sum += extent.end - extent.start;
    return sum;
  }

  clone(): ExtentMap<S> {
    const copy = new ExtentMap<S>();
    copy.#extents = this.#extents.map((extent) => ({ ...extent }));
    return copy;
  }

  /** Index of the first extent that ends after `position`. */
  indexAfter(position: number): number {
    let low = 0;
    let high = this.#extents.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if ((this.#extents[middle] as Extent<S>).end > position) high = middle;
      else low = middle + 1;
    }
    return low;
  }

  /** The extent that covers `position`, if any. */
  at(position: number): Extent<S> | undefined {
    const extent = this.#extents[this.indexAfter(position)];
    return extent !== undefined && extent.start <= position ? extent : undefined;
  }

  /** Makes [start, end) come from `source` at `offset`, whatever was there. */
  set(start: number, end: number, source: S, offset: number): void {
    if (start >= end) return;
    const last = this.#extents.at(-1);
    // Appending is what nearly every writer does.
    if (last === undefined || start >= last.end) {
      if (last !== undefined && last.end === start && last.source === source && last.offset + (last.end - last.start) === offset) {
        last.end = end;
      } else {
        this.#extents.push({ start, end, source, offset });
      }
      return;
    }
    const index = this.#carve(start, end);
    const before = this.#extents[index - 1];
    const after = this.#extents[index];
    const joinsBefore =
      before !== undefined && before.end === start && before.source === source && before.offset + (before.end - before.start) === offset;
    const joinsAfter = after !== undefined && after.start === end && after.source === source && offset + (end - start) === after.offset;
    if (joinsBefore && joinsAfter) {
      before.end = after.end;
      this.#extents.splice(index, 1);
    } else if (joinsBefore) {
      before.end = end;
    } else if (joinsAfter) {
      after.start = start;
      after.offset = offset;
    } else {
      this.#extents.splice(index, 0, { start, end, source, offset });
    }
  }

  /** Makes [start, end) a hole. */
  clear(start: number, end: number): void {
    if (start < end && start < this.end) this.#carve(start, end);
  }

  /** Lays every extent of `upper` over this map. */
  overlay(upper: ExtentMap<S>): void {
    for (const extent of upper.#extents) this.set(extent.start, extent.end, extent.source, extent.offset);
  }

  /** Removes coverage of [start, end), cutting what crosses its edges; returns the index where an extent at `start` belongs. */
  #carve(start: number, end: number): number {
    const extents = this.#extents;
    const index = this.indexAfter(start);
    const first = extents[index];
    if (first === undefined || first.start >= end) return index;
    if (first.start < start && first.end > end) {
      const tail = { start: end, end: first.end, source: first.source, offset: first.offset + (end - first.start) };
      first.end = start;
      extents.splice(index + 1, 0, tail);
      return index + 1;
    }
    let from = index;
    if (first.start < start) {
      first.end = start;
      from++;
    }
    let to = from;
    while (to < extents.length && (extents[to] as Extent<S>).end <= end) to++;
    const crossing = extents[to];
    if (crossing !== undefined && crossing.start < end) {
      crossing.offset += end - crossing.start;
      crossing.start = end;
    }
    if (to > from) extents.splice(from, to - from);
    return from;
  }

  /**
   * Visits [start, end) in order, as pieces that one extent covers or none (`extent` null: a hole).
   */
  visit(start: number, end: number, visitor: (pieceStart: number, pieceEnd: number, extent: Extent<S> | null) => void): void {
    let position = start;
    for (let i = this.indexAfter(start); position < end; i++) {
      const extent = this.#extents[i];
      if (extent === undefined || extent.start >= end) break;
      if (extent.start > position) {
        visitor(position, extent.start, null);
        position = extent.start;
      }
      const pieceEnd = Math.min(extent.end, end);
      visitor(position, pieceEnd, extent);
      position = pieceEnd;
    }
    if (position < end) visitor(position, end, null);
  }
}
