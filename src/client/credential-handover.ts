/** Credentials on their way to a background process (process/background-process.ts): the KEK as bytes, which can be overwritten, then the rest as JSON. */
import type { Credentials } from "../crypto/credentials.ts";
import { KEK_BYTES } from "../crypto/key-ring.ts";

export function packCredentials({ kek, ...rest }: Credentials): Uint8Array {
  return Buffer.concat([kek, Buffer.from(JSON.stringify(rest))]);
}

/** Overwrites what it was given. */
export function unpackCredentials(packed: Uint8Array): Credentials {
  const kek = Uint8Array.from(packed.subarray(0, KEK_BYTES));
  const rest = JSON.parse(new TextDecoder().decode(packed.subarray(KEK_BYTES))) as Omit<Credentials, "kek">;
  packed.fill(0);
  return { ...rest, kek };
}
