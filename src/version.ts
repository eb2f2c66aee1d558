/** Must be that of package.json (version.test.ts). A constant, so that the binary need not carry package.json. */
export const VERSION = "0.1.0";
