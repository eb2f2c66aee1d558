/** When a client's credentials end, and who is told before. */
import { X509Certificate } from "node:crypto";
import type { Credentials } from "../crypto/credentials.ts";
import type { Logger } from "../log.ts";

const DAY_MS = 86_400_000;
/** From here on, each mount and each day of it says so. */
const WARNING_DAYS = 30;

/** The end of a certificate, PEM. */
export function certificateEnd(cert: string): Date {
  return new X509Certificate(cert).validToDate;
}

/** null: it is further away than WARNING_DAYS. */
export function expiryWarning({ tenant, cert }: Pick<Credentials, "tenant" | "cert">, now = Date.now()): string | null {
  const end = certificateEnd(cert);
  const leftMs = end.getTime() - now;
  if (leftMs > WARNING_DAYS * DAY_MS) return null;
  const date = end.toISOString().slice(0, 16).replace("T", " ");
  const when = leftMs <= 0 ? `expired on ${date} UTC` : `expire in ${Math.ceil(leftMs / DAY_MS)} days, on ${date} UTC`;
  return `the credentials of tenant ${tenant} ${when}; on the storage node's host, run: kiseki tenant renew ${tenant} --ca DIR --credentials FILE, and mount again with the new file`;
}

/** Warns in the log, now and every day. Returns how to end that. */
export function watchExpiry(credentials: Pick<Credentials, "tenant" | "cert">, log: Logger): () => void {
  const warn = (): void => {
    const warning = expiryWarning(credentials);
    if (warning !== null) log.warn({ expires: certificateEnd(credentials.cert).toISOString() }, warning);
  };
  warn();
  const timer = setInterval(warn, DAY_MS);
  timer.unref();
  return () => clearInterval(timer);
}
