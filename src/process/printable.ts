/**
 * Names of files, mountpoints and datasets are whatever their owners chose: a terminal must not take orders from them.
 */

/** C0 and C1 control characters and DEL, and those that turn the direction of writing (Unicode, UAX #9). */
// biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is looked for
const UNPRINTABLE = /[\u0000-\u001f\u007f-\u009f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]/g;

/** The text with each such character as an escape: \x1b, \u202e. */
export function printable(text: string): string {
  return text.replace(UNPRINTABLE, (char) => {
    const code = char.charCodeAt(0);
    return code < 0x100 ? `\\x${code.toString(16).padStart(2, "0")}` : `\\u${code.toString(16).padStart(4, "0")}`;
  });
}
