/**
 * The node's data folder:
 *
 *     DIR/node.db                                sessions and wrapped keys; its exclusive lock makes this process the folder's only one
 *     DIR/pki/                                   see pki/cluster.ts
 *     DIR/listen                                 address of the running node, for scripts
 *     DIR/policy.json  policy.json.lock          cache policy, written by kiseki policy; see policy-document.ts
 *     DIR/limits.json                            what tenants may store, written by kiseki tenant limit; see limits.ts
 *     DIR/tmp/<tenant>/                          chunks half written
 *     DIR/tenants/<tenant>/namespaces/<name>/    one shard each
 *     DIR/tenants/<tenant>/chunks/<2 hex>/       sealed chunks
 */
import { chmodSync, existsSync, mkdirSync, readdirSync, renameSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { TENANT_NAME_PATTERN } from "../protocol/limits.ts";

export class DataFolder {
  readonly path: string;

  constructor(path: string) {
    this.path = path;
  }

  get database(): string {
    return join(this.path, "node.db");
  }
  get pki(): string {
    return join(this.path, "pki");
  }
  get policy(): string {
    return join(this.path, "policy.json");
  }
  get limits(): string {
    return join(this.path, "limits.json");
  }
  get tenants(): string {
    return join(this.path, "tenants");
  }
  chunks(tenant: string): string {
    return join(this.tenants, tenant, "chunks");
  }
  aside(tenant: string): string {
    return join(this.path, "tmp", tenant);
  }

  /**
   * Makes the folder (mode 0700) where there is none; an empty one becomes so.
   * @throws Error when something else is there, or others may look into it
   */
  prepare(): void {
    if (existsSync(this.path)) {
      if (!statSync(this.path).isDirectory()) throw new Error(`${this.path}: not a folder`);
      if (!existsSync(this.database) && readdirSync(this.path).some((name) => name !== "lost+found" && name !== "pki")) {
        throw new Error(`${this.path}: holds files that are not kiseki's; give an empty or a new folder`);
      }
    }
    if (existsSync(this.path)) {
      if (!existsSync(this.database)) chmodSync(this.path, 0o700);
      else if ((statSync(this.path).mode & 0o077) !== 0) {
        throw new Error(`${this.path}: group or others may use this folder, which has the cluster's keys; run: chmod 700 ${this.path}`);
      }
    }
    mkdirSync(this.tenants, { recursive: true, mode: 0o700 });
  }

  /** Tenants that have data here. */
  tenantNames(): string[] {
    return readdirSync(this.tenants).filter((name) => TENANT_NAME_PATTERN.test(name));
  }

  /** Says where the node listens; with null, that it does no more. */
  announce(address: string | null): void {
    const file = join(this.path, "listen");
    if (address === null) {
      rmSync(file, { force: true });
      return;
    }
    writeFileSync(`${file}.new`, `${address}\n`);
    renameSync(`${file}.new`, file);
  }
}
