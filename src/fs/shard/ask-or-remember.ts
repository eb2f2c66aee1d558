/** What is known of a file outlives its time while no node can be reached: asking comes first, remembering is for outages. */
import { FsError } from "../posix/errno.ts";
import type { MaybePromise } from "../posix/vfs.ts";
import type { Outage } from "./node-calls.ts";

/**
 * What the node answers; when an outage is on, or begins before it has answered, what is remembered instead. `remembered` is called at the
 * moment when it is needed: what was known may be gone by then.
 */
export function askOrRemember<T>(outage: Outage, ask: () => Promise<T>, remembered: () => MaybePromise<T>): MaybePromise<T> {
  if (outage.isOn) return remembered();
  return new Promise((resolve, reject) => {
    const remember = (): void => {
      try {
        resolve(remembered());
      } catch (error) {
        reject(error);
      }
    };
    const ignore = outage.onBegin(remember);
    ask().then(
      (answer) => {
        ignore();
        resolve(answer);
      },
      (error: unknown) => {
        ignore();
        if (outage.isOn && error instanceof FsError && error.code === "EIO") remember();
        else reject(error);
      },
    );
  });
}
