import { CommandError, ExitStatus } from "../../process/failure.ts";

/** 100 years: the CA's own end cuts it shorter anyway. */
const DAYS_MAX = 36_525;

/** @throws CommandError */
export function parseDays(text: string): number {
  const days = Number(text);
  if (Number.isInteger(days) && days >= 1 && days <= DAYS_MAX) return days;
  throw new CommandError(ExitStatus.usage, `--days ${text}: expected a whole number from 1 to ${DAYS_MAX}`);
}
