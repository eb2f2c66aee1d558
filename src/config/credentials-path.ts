/** Where a tenant's credentials are when nobody says. */
import { existsSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";
import { ConfigError } from "./config-error.ts";

/**
 * The first that exists of $XDG_CONFIG_HOME/kiseki/TENANT.json (default ~/.config) and /etc/kiseki/TENANT.json.
 * @throws ConfigError when neither does.
 */
export function findCredentials(tenant: string): string {
  const configHome = process.env.XDG_CONFIG_HOME || join(homedir(), ".config");
  const places = [join(configHome, "kiseki", `${tenant}.json`), join("/etc/kiseki", `${tenant}.json`)];
  const found = places.find((path) => existsSync(path));
  if (found === undefined) {
    throw new ConfigError(`no credentials of tenant ${tenant} in ${places.join(" or ")}: put them there, or use --credentials FILE`);
  }
  return found;
}
