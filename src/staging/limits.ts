/** Limits of staging. */

/** Folders in folders below the dataset's own: deeper ones are a mistake more often than a dataset. */
export const STAGE_DEPTH_MAX = 10;
/** Files of one dataset: each costs some 500 bytes of memory while it is staged. */
export const STAGE_FILES_MAX = 100_000;
