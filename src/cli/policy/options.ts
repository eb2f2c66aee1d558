/** The options of kiseki policy, as commander hands them over. */

/** Which level, as given on the command line. None: the cluster. */
export interface LevelOptions {
  readonly tenant?: string;
  readonly namespace?: string;
  readonly workload?: string;
}

export interface PolicyOptions extends LevelOptions {
  readonly dataDir: string;
  readonly json?: boolean;
}

export interface ShowEffectiveOptions extends LevelOptions {
  readonly dataDir?: string;
  readonly json?: boolean;
  /** Instead of dataDir: what a running node tells a client. */
  readonly dataAddr?: string;
  readonly credentials?: string;
  readonly passphraseFile?: string;
}
