import { FsError } from "../fs/posix/errno.ts";
import type { Name } from "../fs/posix/vfs.ts";

/** What getxattr(2) and listxattr(2) are answered with: the size alone when that was asked for, else the bytes. */
export type XattrAnswer = number | Uint8Array;

/** The attribute families that kiseki stores. system.posix_acl_* is refused: a stored ACL that nothing enforces would be a lie. */
const PREFIXES = ["user.", "trusted.", "security."];

/** Returns the name. Throws FsError EOPNOTSUPP for other families, EINVAL for a name that is a prefix alone. */
export function checkXattrName(name: Name): Name {
  const prefix = PREFIXES.find((candidate) => name.startsWith(candidate));
  if (prefix === undefined) throw new FsError("EOPNOTSUPP");
  if (name.length === prefix.length) throw new FsError("EINVAL");
  return name;
}

/** `size` is the caller's buffer, 0 to ask how large it has to be. Throws FsError ERANGE when the value is larger. */
export function valueAnswer(value: Uint8Array, size: number): XattrAnswer {
  if (size === 0) return value.length;
  if (value.length > size) throw new FsError("ERANGE");
  return value;
}

/** The names, each with its NUL. trusted.* is shown to root only, as other filesystems do (xattr(7)). */
export function listAnswer(names: readonly Name[], size: number, privileged: boolean): XattrAnswer {
  const shown = privileged ? names : names.filter((name) => !name.startsWith("trusted."));
  const list = Buffer.from(shown.map((name) => `${name}\0`).join(""), "latin1");
  return valueAnswer(list, size);
}
