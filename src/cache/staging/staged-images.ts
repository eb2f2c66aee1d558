/** Files of staged datasets that stand whole and contiguous in the pool. */

export interface StagedImage {
  /** Absolute; 0600, in the pool's `files/`. Exactly the file's bytes, holes as holes. */
  readonly path: string;
  readonly bytes: number;
}

/** What an open for reading asks. In memory: microseconds. */
export interface StagedImages {
  /**
   * The verified image of a file as its attributes of this version describe it; null: there is none. It stays where it is until the
   * dataset is released or staged anew, which unlinks it: who has it open goes on reading the same bytes.
   */
  imageOf(namespace: string, ino: number, version: number): StagedImage | null;
}
