/** What the filesystem needs of the connection to the storage node, and how its failures look to an application. */
import { IntegrityError } from "../../crypto/integrity-error.ts";
import { NodeError, TransportError } from "../../protocol/errors.ts";
import type { AnswerOf, RequestOf } from "../../protocol/messages.ts";
import type { ClientRequestOp } from "../../transport/node-client-options.ts";
import { FsError } from "../posix/errno.ts";
import { RecordFormatError } from "../records/inode-record.ts";

/** Whether a node can be reached at all (cache/connection-watch.ts). One that is slow can. */
export interface Outage {
  /** No node can be reached: what is known may be used whatever its age. */
  readonly isOn: boolean;
  /** Calls the listener once, when the next outage begins, unless what this returns is called before. */
  onBegin(listener: () => void): () => void;
}

/** For a node that is always there. */
export const NO_OUTAGE: Outage = { isOn: false, onBegin: () => () => {} };

/** The part of NodeClient (transport/node-client.ts) that src/fs uses. */
export interface NodeCalls {
  call<O extends ClientRequestOp>(op: O, request: RequestOf<O>): Promise<{ answer: AnswerOf<O>; body: Uint8Array }>;
  /** performance.now() clock: until then the node waits for this session before it answers another's conflicting commit. */
  readonly leaseValidUntilMs: number;
  readonly connected: boolean;
  readonly outage: Outage;
  /** What was answered about an inode from a staged snapshot can't be read any more: from now on it is as the node has it. */
  giveUp?(namespace: string, ino: number): void;
  /** The node has answered what can't be true: the connection is closed, and counted. */
  mistrust?(what: string): void;
  /** Answers about the inode come from a staged snapshot on this machine: there is no round trip to save. */
  isStaged?(namespace: string, ino: number): boolean;
}

/** The error that an application gets for a failure below the filesystem; what is no such failure comes back as it is. */
export function toFsError(error: unknown, doing: string): unknown {
  if (error instanceof FsError) return error;
  if (error instanceof NodeError) {
    switch (error.code) {
      case "no_space":
        return new FsError("ENOSPC", `${doing}: the storage node is full`, { cause: error });
      case "over_quota":
        return new FsError("EDQUOT", `${doing}: ${error.message}`, { cause: error });
      case "not_authorized":
        return new FsError("EACCES", `${doing}: not authorized`, { cause: error });
      case "key_revoked":
        return new FsError("EKEYREVOKED", `${doing}: ${error.message}`);
      case "not_found":
        return new FsError("ESTALE", `${doing}: gone from the storage node`, { cause: error });
      default:
        return new FsError("EIO", `${doing}: ${error.message}`, { cause: error });
    }
  }
  if (error instanceof TransportError || error instanceof IntegrityError || error instanceof RecordFormatError) {
    return new FsError("EIO", `${doing}: ${error.message}`, { cause: error });
  }
  return error;
}
