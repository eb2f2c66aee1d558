/** A libc call that failed, with its errno. */
export class LibcError extends Error {
  override readonly name = "LibcError";
  readonly call: string;
  readonly errno: number;

  constructor(call: string, errno: number) {
    super(`${call} failed: errno ${errno}`);
    this.call = call;
    this.errno = errno;
  }
}
