/** What every suite of test/ starts from. */
export { cleanUp, KISEKI, onCleanUp, tempFolder } from "./resources.ts";
export { cleanEnvironment, type RunOptions, type RunResult, run, runOk } from "./run.ts";
export { isMounted, TestMount, type TestMountOptions } from "./test-mount.ts";
export { TestNode, type TestNodeOptions } from "./test-node.ts";
