/** What every suite of test/ starts from. */
export { cleanUp, KISEKI, onCleanUp, tempFolder } from "./resources.ts";
export { cleanEnvironment, Dialog, run, runOk } from "./run.ts";
export { isMounted, TestMount } from "./test-mount.ts";
export { TestNode } from "./test-node.ts";
