/** The options of kiseki umount, as commander hands them over. */

/** As umount(8) has them. */
export interface UmountOptions {
  /** Take the folder out of the tree now, and end the mount when its last file is closed. */
  readonly lazy?: boolean;
  /** Do not wait for what can't be written out: it is lost. */
  readonly force?: boolean;
}
