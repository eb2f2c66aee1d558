/** Credentials on their way to a background process (process/background-process.ts), as text. */
import type { Credentials } from "../crypto/credentials.ts";

export function packCredentials({ kek, ...rest }: Credentials): string {
  return JSON.stringify({ ...rest, kek: Buffer.from(kek).toString("base64") });
}

export function unpackCredentials(text: string): Credentials {
  const { kek, ...rest } = JSON.parse(text) as Omit<Credentials, "kek"> & { readonly kek: string };
  return { ...rest, kek: Uint8Array.from(Buffer.from(kek, "base64")) };
}
