/** The options of kiseki tenant, as commander hands them over. */
import type { NodeOptions } from "../shared/node-options.ts";

/** As given on the command line. */
export interface TenantCreateOptions {
  readonly ca: string;
  readonly out: string;
  readonly days: string;
  readonly passphrase?: boolean;
  readonly passphraseFile?: string;
}

/** As given on the command line. */
export interface TenantRenewOptions {
  readonly ca: string;
  readonly credentials: string;
  readonly days: string;
}

/** As given on the command line. */
export interface TenantRevokeOptions {
  readonly ca: string;
  readonly serial?: string[];
  readonly all?: boolean;
  readonly force?: boolean;
}

/** As given on the command line or in the environment. */
export interface TenantRotateOptions extends NodeOptions {
  readonly rewrite?: boolean;
  readonly rate: string;
  readonly json?: boolean;
}

/** As given on the command line. */
export interface TenantLimitOptions {
  readonly dataDir?: string;
  readonly dataAddr?: string;
  readonly ca?: string;
  readonly bytes?: string;
  readonly inodes?: string;
  readonly namespaces?: string;
  readonly json?: boolean;
}

/** As given on the command line. */
export interface TenantPassphraseOptions {
  readonly passphraseFile?: string;
  readonly newPassphraseFile?: string;
  readonly remove?: boolean;
}

/** As given on the command line or in the environment. */
export interface TenantShredOptions {
  readonly ca?: string;
  readonly credentials?: string;
  readonly dataAddr: string;
  readonly yes?: boolean;
}
