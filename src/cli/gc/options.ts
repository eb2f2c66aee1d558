/** The options of kiseki gc, as commander hands them over. */
import type { NodeOptions } from "../shared/node-options.ts";

/** As given on the command line or in the environment. */
export interface GcOptions extends Partial<NodeOptions> {
  readonly dataDir?: string;
  readonly dryRun?: boolean;
  readonly json?: boolean;
}
