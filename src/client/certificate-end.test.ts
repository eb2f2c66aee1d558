import { expect, test } from "bun:test";
import { issueTenant, makeCa } from "../pki/certificates.ts";
import { certificateEnd, expiryWarning } from "./certificate-end.ts";

test("from 30 days before the end there is a warning, which says when and what to do", async () => {
  const { cert } = await issueTenant(await makeCa("c"), "c", "acme", 100);
  const end = certificateEnd(cert).getTime();
  const DAY_MS = 86_400_000;
  expect(expiryWarning({ tenant: "acme", cert })).toBeNull();
  expect(expiryWarning({ tenant: "acme", cert }, end - 31 * DAY_MS)).toBeNull();
  expect(expiryWarning({ tenant: "acme", cert }, end - 29.5 * DAY_MS)).toMatch(
    /^the credentials of tenant acme expire in 30 days, on \d{4}-.* kiseki tenant renew acme /,
  );
  expect(expiryWarning({ tenant: "acme", cert }, end - DAY_MS / 2)).toContain("expire in 1 days");
  expect(expiryWarning({ tenant: "acme", cert }, end + 1)).toContain("expired on");
});
