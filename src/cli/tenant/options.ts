/** The options of kiseki tenant, as commander hands them over. */

/** As given on the command line. */
export interface TenantCreateOptions {
  readonly ca: string;
  readonly out: string;
  readonly days: string;
  readonly passphrase?: boolean;
  readonly passphraseFile?: string;
}

/** As given on the command line or in the environment. */
export interface TenantShredOptions {
  readonly ca?: string;
  readonly credentials?: string;
  readonly dataAddr: string;
  readonly yes?: boolean;
}
