/** The options of kiseki serve, as commander hands them over. */

/** As given on the command line. */
export interface ServeOptions {
  readonly dataDir: string;
  readonly listen: string;
  readonly gcGrace: string;
  readonly transports: string;
  readonly fabricInterface?: string;
  readonly logLevel: string;
  readonly logFile?: string;
  readonly verify?: boolean;
  readonly restored?: boolean;
}
