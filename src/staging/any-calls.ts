/** What is asked of the node, and by whom it is asked here: the node itself, or a snapshot before it. */
import type { NodeCalls } from "../fs/shard/node-calls.ts";

export type AnyCalls = Omit<NodeCalls, "outage">;
