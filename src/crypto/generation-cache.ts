/**
 * A bounded cache of two generations: hits in the younger one only read a Map, where a strict LRU would write it each time. When
 * the younger is full, it becomes the older one and what was in that is forgotten. So an entry that is used at least once in
 * `capacity` distinct others stays, and at most 2 x `capacity` are held.
 */
export class GenerationCache<K, V> {
  readonly #capacity: number;
  #young = new Map<K, V>();
  #old = new Map<K, V>();

  constructor(capacity: number) {
    if (!Number.isInteger(capacity) || capacity < 1) throw new RangeError(`capacity: expected a positive integer, got ${capacity}`);
    this.#capacity = capacity;
  }

  get(key: K): V | undefined {
    const value = this.#young.get(key);
    if (value !== undefined) return value;
    const older = this.#old.get(key);
    if (older !== undefined) this.set(key, older);
    return older;
  }

  set(key: K, value: V): void {
    if (this.#young.size >= this.#capacity && !this.#young.has(key)) {
      this.#old = this.#young;
      this.#young = new Map();
    }
    this.#young.set(key, value);
  }

  /** Entries held, those that are in both generations counted twice. */
  get size(): number {
    return this.#young.size + this.#old.size;
  }

  /** All values, those that are in both generations twice. */
  *values(): Generator<V> {
    yield* this.#young.values();
    yield* this.#old.values();
  }

  clear(): void {
    this.#young.clear();
    this.#old.clear();
  }
}
