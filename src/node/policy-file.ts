/** How DIR/policy.json is changed, beside a running node or without one: whole or not at all, one change at a time. */
import { existsSync } from "node:fs";
import type { PolicyLevel } from "../protocol/policy.ts";
import { changeFile } from "./change-file.ts";
import { DataFolder } from "./data-folder.ts";
import { levelPath, type PolicyDocument, type PolicyScope } from "./policy-document.ts";
import { POLICY_FILE_MAX_BYTES, readPolicyDocument } from "./policy-store.ts";

/** @throws Error, one line, when there is no node's data in the folder */
export function policyPathOf(dataDir: string): string {
  const folder = new DataFolder(dataDir);
  if (!existsSync(folder.database)) throw new Error(`${dataDir}: not a storage node's data folder`);
  return folder.policy;
}

/** The document with what one level says replaced; a level that says nothing has no entry. */
export function withLevel(document: PolicyDocument, scope: PolicyScope, level: PolicyLevel): PolicyDocument {
  const { [levelPath(scope)]: _, ...others } = document.levels;
  const said = Object.fromEntries(Object.entries(level).filter(([, value]) => value !== undefined)) as PolicyLevel;
  const levels = Object.keys(said).length === 0 ? others : { ...others, [levelPath(scope)]: said };
  return { ...document, levels: Object.fromEntries(Object.entries(levels).sort(([a], [b]) => (a < b ? -1 : 1))) };
}

/**
 * Replaces the document by what `change` makes of it.
 * @throws Error, one line; what `change` throws: then nothing has changed
 */
export async function changePolicyFile(dataDir: string, change: (document: PolicyDocument) => PolicyDocument): Promise<void> {
  const path = policyPathOf(dataDir);
  await changeFile(path, () => {
    const text = `${JSON.stringify(change(readPolicyDocument(path)), null, 2)}\n`;
    if (Buffer.byteLength(text) > POLICY_FILE_MAX_BYTES) {
      throw new Error(`${path}: would become larger than ${POLICY_FILE_MAX_BYTES} bytes; unset what is not needed any more`);
    }
    return text;
  });
}
