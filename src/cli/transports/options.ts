/** The options of kiseki transports, as commander hands them over. */
import type { NodeOptions } from "../shared/node-options.ts";

/** As given on the command line or in the environment. */
export interface TransportsOptions extends Partial<NodeOptions> {
  readonly fabricInterface?: string;
  readonly json?: boolean;
}
