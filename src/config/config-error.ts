/** A setting that can't be used. The message is one line: the option, where it was set, the value and what is allowed. */
export class ConfigError extends Error {
  override readonly name = "ConfigError";
}
