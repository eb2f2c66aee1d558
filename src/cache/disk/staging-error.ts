/** How staging fails. Here, as the disk cache is one who says that there is no room. */

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
