/** --fabric-interface, as several commands have it. */
import { CommandError, ExitStatus } from "../../process/failure.ts";
import { INTERFACE_EXPECTED, isFabricInterface } from "../../protocol/fabric-providers.ts";

/** @returns an address or device; null: nothing is named @throws CommandError when it is neither */
export function fabricInterfaceOf({ fabricInterface }: { readonly fabricInterface?: string }): string | null {
  if (fabricInterface === undefined) return null;
  if (!isFabricInterface(fabricInterface))
    throw new CommandError(ExitStatus.usage, `--fabric-interface ${fabricInterface}: expected ${INTERFACE_EXPECTED}`);
  return fabricInterface;
}
