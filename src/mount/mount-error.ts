/** Why a mount failed before it served anything. */
export type MountErrorKind =
  | "no-device"
  | "permission"
  | "no-fusermount"
  | "not-found"
  | "not-a-folder"
  | "not-empty"
  | "already-mounted"
  | "option"
  | "library"
  | "device"
  | "failed";

/** The message is one line and says what to do about it. */
export class MountError extends Error {
  override readonly name = "MountError";
  readonly kind: MountErrorKind;

  constructor(kind: MountErrorKind, message: string, options?: { cause?: unknown }) {
    super(message, options);
    this.kind = kind;
  }
}
