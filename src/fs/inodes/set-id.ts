/** Set-id bits, and when they end. */

/** S_ISUID, S_ISGID and the group's execute bit (stat(2)). */
const SET_UID = 0o4000;
const SET_GID = 0o2000;
const GROUP_EXECUTE = 0o010;

/** The mode after somebody without privileges has changed the content (write(2), truncate(2)), or anybody the owner (chown(2)). */
export function withoutSetId(mode: number): number {
  const cleared = mode & ~SET_UID;
  return (cleared & GROUP_EXECUTE) !== 0 ? cleared & ~SET_GID : cleared;
}
