/** The fields of what a tenant may store: a number, "no limit" or, in a request, "as it is". */
import { count, integer, tuple } from "./codec-fields.ts";
import { type AnswerOf, COUNTED, type Counted, type RequestOf } from "./messages.ts";

const NO_LIMIT = -1;
const UNCHANGED = -2;

/** null: no limit. */
export function encodeLimit(limit: number | null, what: string): number {
  return limit === null ? NO_LIMIT : count(limit, what);
}

/** @throws NodeError "bad_request" as all codec fields */
export function decodeLimit(value: unknown, what: string): number | null {
  const limit = integer(value, NO_LIMIT, Number.MAX_SAFE_INTEGER, what);
  return limit === NO_LIMIT ? null : limit;
}

function counted<T>(of: (what: Counted, index: number) => T): Record<Counted, T> {
  return Object.fromEntries(COUNTED.map((what, i) => [what, of(what, i)])) as Record<Counted, T>;
}

export const tenantLimitCodec = {
  encodeRequest: (r: RequestOf<"tenantLimit">): unknown[] =>
    COUNTED.map((what) => (r[what] === undefined ? UNCHANGED : encodeLimit(r[what] as number | null, what))),
  decodeRequest: (f: unknown[]): RequestOf<"tenantLimit"> => {
    const values = tuple(f, COUNTED.length, "tenantLimit");
    return counted((what, i) => (values[i] === UNCHANGED ? undefined : decodeLimit(values[i], what)));
  },
  encodeAnswer: (a: AnswerOf<"tenantLimit">): unknown[] => [
    ...COUNTED.map((what) => encodeLimit(a.limits[what], what)),
    ...COUNTED.map((what) => count(a.used[what], what)),
  ],
  decodeAnswer: (f: unknown[]): AnswerOf<"tenantLimit"> => {
    const values = tuple(f, 2 * COUNTED.length, "tenantLimit answer");
    return {
      limits: counted((what, i) => decodeLimit(values[i], what)),
      used: counted((what, i) => count(values[COUNTED.length + i], what)),
    };
  },
};
