/** Limits of staging, and how it fails. */

/** Folders in folders below the dataset's own: deeper ones are a mistake more often than a dataset. */
export const STAGE_DEPTH_MAX = 10;
/** Files of one dataset: each costs some 500 bytes of memory while it is staged. */
export const STAGE_FILES_MAX = 100_000;

export type StagingErrorCode =
  | "too_deep"
  | "too_many_files"
  | "not_found"
  | "capacity" // CacheCapacityExceeded
  | "cancelled"
  | "timeout"
  | "busy"; // the same dataset is being staged or released

/** Staging could not be done; what had been fetched stays for the next try. The message is complete and for the user. */
export class StagingError extends Error {
  override readonly name: string = "StagingError";
  readonly code: StagingErrorCode;

  constructor(code: StagingErrorCode, message: string, options?: { cause?: unknown }) {
    super(message, options);
    this.code = code;
  }
}

/** There is no room for what is to be pinned; nothing that is pinned was given up for it. */
export class CacheCapacityExceeded extends StagingError {
  override readonly name = "CacheCapacityExceeded";

  constructor(message: string, options?: { cause?: unknown }) {
    super("capacity", message, options);
  }
}
