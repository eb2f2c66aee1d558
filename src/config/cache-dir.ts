/** Where the disk cache is unless a user says otherwise. */

/** In /tmp, which every machine has; one of their own for users, because nobody may write into another's. */
export function defaultCacheDir(): string {
  const uid = process.geteuid?.() ?? 0;
  return uid === 0 ? "/tmp/kiseki-cache" : `/tmp/kiseki-cache-${uid}`;
}
