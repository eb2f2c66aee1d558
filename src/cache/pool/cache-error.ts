/** The folder that holds the disk caches can't be used. The message is complete: what is wrong, and what to do. */
export class CacheFolderError extends Error {
  override readonly name = "CacheFolderError";
}

/**
 * not_found: no such pool (any more). in_use: another process holds its lock. not_yours: it belongs to another tenant or user.
 * failed: the hand-over went wrong; the pool is as it was.
 */
export type PoolErrorCode = "not_found" | "in_use" | "not_yours" | "failed";

/** A pool can't be had. The message is complete. */
export class PoolError extends Error {
  override readonly name = "PoolError";
  readonly code: PoolErrorCode;

  constructor(code: PoolErrorCode, message: string, options?: { cause?: unknown }) {
    super(message, options);
    this.code = code;
  }
}
