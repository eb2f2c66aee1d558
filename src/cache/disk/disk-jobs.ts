/** What a DiskWriter and its Worker say to each other. All small: file content stays in the shared arena. */

export interface StartDiskWorker {
  readonly kind: "start";
  /** Cells of BLOCK_BYTES. */
  readonly arena: SharedArrayBuffer;
  /** Addresses of lseek(2) and setpriority(2): a Worker opens no library. */
  readonly lseek: number;
  readonly setpriority: number;
}

/** Writes blocks of a chunk to its file; the trailer too where they are all of its blocks. */
export interface WriteJob {
  readonly kind: "write";
  readonly path: string;
  readonly id: Uint8Array;
  /** The file does not exist yet. */
  readonly create: boolean;
  readonly chunkBytes: number;
  readonly firstBlock: number;
  readonly cells: readonly number[];
}

/** Writes the trailer of a chunk of which all blocks are there. */
export interface TrailerJob {
  readonly kind: "trailer";
  readonly path: string;
  readonly chunkBytes: number;
  readonly crc: number;
}

/** Overwrites a file with zeros, has these written to the disk, and unlinks it. */
export interface DestroyJob {
  readonly kind: "destroy";
  readonly path: string;
}

/** Reads a whole chunk file, and checks it against its trailer. */
export interface VerifyJob {
  readonly kind: "verify";
  readonly path: string;
  readonly id: Uint8Array;
  readonly chunkBytes: number;
}

export type DiskJob = WriteJob | TrailerJob | DestroyJob | VerifyJob;

export interface NumberedJob {
  readonly id: number;
  readonly job: DiskJob;
}

export type DiskJobResult =
  /** `crcs`: of the blocks that were written or verified, CRC32. */
  | { readonly id: number; readonly crcs: readonly number[] }
  /** `code`: as in NodeJS.ErrnoException, or "". */
  | { readonly id: number; readonly code: string; readonly message: string };

/** To be done one after the other. A message wakes a thread, at some 30 us of processor time on either side: it carries several jobs. */
export type ToDiskWorker = StartDiskWorker | { readonly kind: "jobs"; readonly jobs: readonly NumberedJob[] } | { readonly kind: "close" };

export type FromDiskWorker =
  /** Of all jobs of one message. */
  { readonly kind: "results"; readonly results: readonly DiskJobResult[] } | { readonly kind: "closed" };
