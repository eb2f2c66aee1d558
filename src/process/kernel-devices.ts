/** Devices that the kernel knows, by its folders below /sys/class. */
import { readdirSync } from "node:fs";

/** Whether the folder has an entry. */
export function hasDevices(folder: string): boolean {
  try {
    return readdirSync(folder).length > 0;
  } catch {
    return false;
  }
}
