/**
 * Sealed bytes that don't open: changed, moved to another place, sealed by another tenant, or of an unknown format. The message
 * says what kind of thing failed and why, never a key, name or content.
 */
export class IntegrityError extends Error {
  override readonly name = "IntegrityError";
}
