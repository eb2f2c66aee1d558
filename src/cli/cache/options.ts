/** The options of kiseki cache, as commander hands them over. */

/** As given on the command line. */
export interface CacheStatsOptions {
  readonly json?: boolean;
  /** true: every two seconds. */
  readonly watch?: string | true;
}

export interface CacheWipeOptions {
  readonly json?: boolean;
}
