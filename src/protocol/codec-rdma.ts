/** The messages by which bodies are moved over a fabric. See codec.ts. */
import { bytes, chunkId, count, each, integer, items, text, tuple } from "./codec-fields.ts";
import { FABRIC_NAME_MAX_BYTES, FABRICS_MAX, MAC_KEY_BYTES, RDMA_MEMORY_MAX_BYTES, SEALED_CHUNK_MAX_BYTES, TAG_BYTES } from "./limits.ts";
import type { AnswerOf, FabricOffer, RdmaBody, RequestOf } from "./messages.ts";

/** Names of providers and devices. */
const FABRIC_TEXT_MAX_LENGTH = 64;
/** Addresses and keys of memory: 64 bits, which numbers don't hold. */
const WORD_BYTES = 8;

function fabricText(value: unknown, what: string): string {
  return text(value, FABRIC_TEXT_MAX_LENGTH, what);
}

function at(value: unknown): number {
  return integer(value, 0, RDMA_MEMORY_MAX_BYTES, "place");
}

function encodeBody(body: RdmaBody): unknown[] {
  return [
    at(body.at),
    integer(body.bytes, 1, SEALED_CHUNK_MAX_BYTES, "bytes"),
    count(body.counter, "counter"),
    bytes(body.mac, TAG_BYTES, TAG_BYTES, "mac"),
  ];
}

function decodeBody(value: unknown): RdmaBody {
  const t = tuple(value, 4, "body");
  return {
    at: at(t[0]),
    bytes: integer(t[1], 1, SEALED_CHUNK_MAX_BYTES, "bytes"),
    counter: count(t[2], "counter"),
    mac: bytes(t[3], TAG_BYTES, TAG_BYTES, "mac"),
  };
}

const encodeOffer = (offer: FabricOffer): unknown[] => [fabricText(offer.provider, "provider"), fabricText(offer.domain, "domain")];

function decodeOffer(value: unknown): FabricOffer {
  const t = tuple(value, 2, "fabric");
  return { provider: fabricText(t[0], "provider"), domain: fabricText(t[1], "domain") };
}

const nothing = {
  encode: (): unknown[] => [],
  decode: (fields: unknown[]): Record<string, never> => {
    tuple(fields, 0, "message");
    return {};
  },
};

export const discoverCodec = {
  encodeRequest: nothing.encode,
  decodeRequest: nothing.decode,
  encodeAnswer: (a: AnswerOf<"discover">): unknown[] => [
    each(items(a.fabrics, FABRICS_MAX, "fabrics"), encodeOffer),
    count(a.ttlMs, "ttlMs"),
  ],
  decodeAnswer: (f: unknown[]): AnswerOf<"discover"> => ({
    fabrics: each(items(tuple(f, 2, "discover answer")[0], FABRICS_MAX, "fabrics"), decodeOffer),
    ttlMs: count(f[1], "ttlMs"),
  }),
};

export const rdmaOpenCodec = {
  encodeRequest: (r: RequestOf<"rdmaOpen">): unknown[] => [
    fabricText(r.provider, "provider"),
    fabricText(r.domain, "domain"),
    bytes(r.name, 1, FABRIC_NAME_MAX_BYTES, "name"),
    bytes(r.base, WORD_BYTES, WORD_BYTES, "base"),
    bytes(r.key, WORD_BYTES, WORD_BYTES, "key"),
    integer(r.bytes, 1, RDMA_MEMORY_MAX_BYTES, "bytes"),
    bytes(r.macKey, MAC_KEY_BYTES, MAC_KEY_BYTES, "MAC key"),
  ],
  decodeRequest: (f: unknown[]): RequestOf<"rdmaOpen"> => ({
    provider: fabricText(tuple(f, 7, "rdmaOpen")[0], "provider"),
    domain: fabricText(f[1], "domain"),
    name: bytes(f[2], 1, FABRIC_NAME_MAX_BYTES, "name"),
    base: bytes(f[3], WORD_BYTES, WORD_BYTES, "base"),
    key: bytes(f[4], WORD_BYTES, WORD_BYTES, "key"),
    bytes: integer(f[5], 1, RDMA_MEMORY_MAX_BYTES, "bytes"),
    macKey: bytes(f[6], MAC_KEY_BYTES, MAC_KEY_BYTES, "MAC key"),
  }),
  encodeAnswer: (a: AnswerOf<"rdmaOpen">): unknown[] => [bytes(a.name, 0, FABRIC_NAME_MAX_BYTES, "name")],
  decodeAnswer: (f: unknown[]): AnswerOf<"rdmaOpen"> => ({
    name: bytes(tuple(f, 1, "rdmaOpen answer")[0], 0, FABRIC_NAME_MAX_BYTES, "name"),
  }),
};

export const rdmaProbeCodec = {
  encodeRequest: (r: RequestOf<"rdmaProbe">): unknown[] => [encodeBody(r)],
  decodeRequest: (f: unknown[]): RequestOf<"rdmaProbe"> => decodeBody(tuple(f, 1, "rdmaProbe")[0]),
  encodeAnswer: nothing.encode,
  decodeAnswer: nothing.decode,
};

export const rdmaPutCodec = {
  encodeRequest: (r: RequestOf<"rdmaPut">): unknown[] => [chunkId(r.id), encodeBody(r.body)],
  decodeRequest: (f: unknown[]): RequestOf<"rdmaPut"> => ({ id: chunkId(tuple(f, 2, "rdmaPut")[0]), body: decodeBody(f[1]) }),
};

export const rdmaGetCodec = {
  encodeRequest: (r: RequestOf<"rdmaGet">): unknown[] => [
    chunkId(r.id),
    integer(r.offset, 0, SEALED_CHUNK_MAX_BYTES, "offset"),
    integer(r.length, 1, SEALED_CHUNK_MAX_BYTES, "length"),
    at(r.at),
  ],
  decodeRequest: (f: unknown[]): RequestOf<"rdmaGet"> => ({
    id: chunkId(tuple(f, 4, "rdmaGet")[0]),
    offset: integer(f[1], 0, SEALED_CHUNK_MAX_BYTES, "offset"),
    length: integer(f[2], 1, SEALED_CHUNK_MAX_BYTES, "length"),
    at: at(f[3]),
  }),
  encodeAnswer: (a: AnswerOf<"rdmaGet">): unknown[] => [
    integer(a.totalBytes, 0, SEALED_CHUNK_MAX_BYTES, "totalBytes"),
    integer(a.placed, 0, SEALED_CHUNK_MAX_BYTES, "placed"),
  ],
  decodeAnswer: (f: unknown[]): AnswerOf<"rdmaGet"> => ({
    totalBytes: integer(tuple(f, 2, "rdmaGet answer")[0], 0, SEALED_CHUNK_MAX_BYTES, "totalBytes"),
    placed: integer(f[1], 0, SEALED_CHUNK_MAX_BYTES, "placed"),
  }),
};
