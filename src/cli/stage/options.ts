/** What kiseki stage was asked for. */
import type { GivenOption } from "../../config/mount-options.ts";

export interface StageOrder {
  readonly given: readonly GivenOption[];
  readonly dataset: string | undefined;
  readonly timeout: string | undefined;
  readonly daemon: boolean;
  readonly status: boolean;
  readonly release: string | undefined;
  readonly releaseAll: boolean;
  readonly pool: string | undefined;
  readonly json: boolean;
}
