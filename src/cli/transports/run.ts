/** What `kiseki transports` does; loaded only for it. */
import { type ProbedTransport, probeTransports } from "../../client/probe-transports.ts";
import { printable } from "../../process/printable.ts";
import { columns } from "../shared/columns.ts";
import { fabricInterfaceOf } from "../shared/fabric-interface.ts";
import { humanBytes } from "../shared/quantities.ts";
import { withNode } from "../shared/with-node.ts";
import type { TransportsOptions } from "./options.ts";

/** @throws CommandError, TransportError, NodeError */
export async function transportsCommand(options: TransportsOptions): Promise<void> {
  const { dataAddr } = options;
  const fabricInterface = fabricInterfaceOf(options);
  const rows =
    dataAddr === undefined
      ? await probeTransports(null, fabricInterface)
      : await withNode({ ...options, dataAddr }, (client) => probeTransports(client, fabricInterface));
  if (options.json === true) for (const row of rows) process.stdout.write(`${JSON.stringify(row)}\n`);
  else process.stdout.write(`${table(rows, dataAddr !== undefined).join("\n")}\n`);
}

function table(rows: readonly ProbedTransport[], isTried: boolean): string[] {
  const body = rows.map(({ transport, device, nodeDevice, roundTripMs, bytesPerSecond, isChosen, reason }) => [
    transport,
    printable(device ?? "-"),
    ...(isTried
      ? [
          printable(nodeDevice ?? "-"),
          roundTripMs === null ? "-" : `${roundTripMs.toFixed(2)} ms`,
          bytesPerSecond === null ? "-" : `${humanBytes(bytesPerSecond)}/s`,
        ]
      : []),
    isChosen ? "chosen by transport=auto" : printable(reason === "" ? "can be used" : reason),
  ]);
  const isText = (column: number): boolean => column < 2 || column === (isTried ? 5 : 2) || (isTried && column === 2);
  return columns([["TRANSPORT", "DEVICE", ...(isTried ? ["NODE", "ROUND TRIP", "BANDWIDTH"] : []), ""], ...body], isText);
}
