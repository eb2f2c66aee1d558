/** What two queue pairs have to know of each other, as bytes: big endian, 36 of them. It crosses TLS, and comes from a peer: all is checked. */
import { IBV_MTU_256, IBV_MTU_4096 } from "./layout.ts";

/** Another form than ours is refused, not misread. */
const FORM = 1;
const NAME_BYTES = 36;
/** Packet sequence numbers and queue pairs' numbers have 24 bits. */
export const PSN_MASK = 0xff_ff_ff;
/** RDMA reads at a time that any device takes. */
const READS_MAX = 255;

export interface QueuePairName {
  readonly number: number;
  /** The first packet sequence number that it sends. */
  readonly psn: number;
  readonly lid: number;
  /** IBV_MTU_*. */
  readonly mtu: number;
  readonly isEthernet: boolean;
  /** RDMA reads of the peer that it answers at a time. */
  readonly reads: number;
  readonly gid: Uint8Array;
}

export function encodeName({ number, psn, lid, mtu, isEthernet, reads, gid }: QueuePairName): Uint8Array {
  const bytes = new Uint8Array(NAME_BYTES);
  const view = new DataView(bytes.buffer);
  view.setUint8(0, FORM);
  view.setUint8(1, isEthernet ? 1 : 0);
  view.setUint8(2, mtu);
  view.setUint8(3, reads);
  view.setUint32(4, number);
  view.setUint32(8, psn);
  view.setUint16(12, lid);
  bytes.set(gid, NAME_BYTES - 16);
  return bytes;
}

/** @throws Error */
export function decodeName(bytes: Uint8Array): QueuePairName {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (bytes.length !== NAME_BYTES || bytes[0] !== FORM) throw new Error("not the name of a queue pair");
  const name = {
    isEthernet: view.getUint8(1) === 1,
    mtu: view.getUint8(2),
    reads: Math.min(READS_MAX, view.getUint8(3)),
    number: view.getUint32(4),
    psn: view.getUint32(8),
    lid: view.getUint16(12),
    gid: bytes.slice(NAME_BYTES - 16),
  };
  if (name.number > PSN_MASK || name.psn > PSN_MASK || name.mtu < IBV_MTU_256 || name.mtu > IBV_MTU_4096 || name.reads < 1)
    throw new Error("the name of a queue pair with a number out of range");
  return name;
}
