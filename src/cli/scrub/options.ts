/** The options of kiseki scrub, as commander hands them over. */

/** As given on the command line. */
export interface ScrubCommandOptions {
  readonly cacheDir?: string;
  readonly watch?: string;
  readonly dryRun?: boolean;
  readonly json?: boolean;
}
