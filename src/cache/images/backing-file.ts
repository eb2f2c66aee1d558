/**
 * Files of the local filesystem that hold all bytes of a staged file: the kernel can read such an image instead of asking us (FUSE
 * passthrough). Here is what the filesystem and the mount know of them; ImageFile (image-file.ts) is one. Paths of checked files come into this folder,
 * descriptors for the kernel go out.
 */

/**
 * The bytes of one version of a file, whole, in a local file of exactly its size. The same object stands for the same image each time that
 * it is asked for: the kernel takes one backing file for an inode at a time.
 */
export interface BackingFile {
  /** The size of the file that it stands for. */
  readonly bytes: number;
  /**
   * Its owner neither changes, zeroes nor removes the image until each acquire() was followed by a release().
   * @returns a new descriptor, open for reading, which the caller closes (before or after release)
   * @throws when the image can't be opened: then nothing was acquired
   */
  acquire(): number;
  release(): void;
}

/** Which files have an image now. */
export interface StagedImages {
  /**
   * Asked at each open of a regular file for reading, so it answers from memory.
   * @param ino in its namespace (not the mount's number) @param version of the inode's record, as the node counts
   * @returns null where reads take the ordinary way
   */
  imageOf(namespace: string, ino: number, version: number): BackingFile | null;
}
