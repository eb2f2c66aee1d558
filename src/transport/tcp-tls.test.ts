import { afterAll, beforeAll, expect, test } from "bun:test";
import { makeCa, makeIdentity, type TestCa } from "../pki/test-pki.ts";
import { TransportError } from "../protocol/errors.ts";
import { tcpTls } from "./tcp-tls.ts";
import { uriNames } from "./tcp-tls-identity.ts";
import type { Connection, Listener, TlsIdentity } from "./transport.ts";

let ca: TestCa;
let otherCa: TestCa;
let node: TlsIdentity;
let tenant: TlsIdentity;
const closeAfter: { close(): void }[] = [];

beforeAll(async () => {
  ca = await makeCa("cluster");
  otherCa = await makeCa("cluster");
  node = await makeIdentity(ca, { uri: "spiffe://c/node/n1", dns: "localhost", ip: "127.0.0.1" });
  tenant = await makeIdentity(ca, { uri: "spiffe://c/tenant/t1" });
});
afterAll(() => {
  for (const listener of closeAfter) listener.close();
});

interface Server {
  listener: Listener;
  accepted: Connection[];
  rejected: string[];
}

async function serve(tls: TlsIdentity, onConnection: (connection: Connection) => void = () => {}): Promise<Server> {
  const accepted: Connection[] = [];
  const rejected: string[] = [];
  const options = { host: "127.0.0.1", port: 0, tls, onRejected: (_remote: string, reason: string) => rejected.push(reason) };
  const listener = await tcpTls.listen(options, (connection) => {
    accepted.push(connection);
    onConnection(connection);
  });
  closeAfter.push(listener);
  return { listener, accepted, rejected };
}

function connect(server: Server, tls: TlsIdentity): Promise<Connection> {
  return tcpTls.connect({ host: "127.0.0.1", port: server.listener.port, tls, timeoutMs: 5_000 });
}

async function kindOf(attempt: Promise<Connection>): Promise<string> {
  const error = await attempt.then(
    () => null,
    (reason: unknown) => reason,
  );
  expect(error).toBeInstanceOf(TransportError);
  return (error as TransportError).kind;
}

/** Resolves when the peer has ended the connection. */
function ended(connection: Connection): Promise<string> {
  return new Promise((resolve) => {
    connection.onClose = resolve;
  });
}

test("both sides read each other's names from the certificates", async () => {
  const server = await serve(node);
  const connection = await connect(server, tenant);
  expect(connection.peer.sanUris).toEqual(["spiffe://c/node/n1"]);
  connection.send([new Uint8Array(1)]);
  while (server.accepted.length === 0) await Bun.sleep(1);
  expect(server.accepted[0]?.peer).toEqual({ sanUris: ["spiffe://c/tenant/t1"], serial: "0A0B0C" });
  connection.close("done");
});

test("bytes arrive in order and whole in both directions, small parts and large, more than sockets hold", async () => {
  const server = await serve(node, (connection) => {
    connection.onData = (bytes) => {
      connection.send([new Uint8Array(bytes)]);
    };
  });
  const connection = await connect(server, tenant);
  const sizes = [1, 100, 20_000, 5, 4_000_000, 0, 70_000, 3, 16_384, 16_383, 1_000_000];
  const sent = Buffer.concat(sizes.map((size, index) => Buffer.alloc(size, index + 1)));
  const received: Uint8Array[] = [];
  let receivedBytes = 0;
  const done = new Promise<void>((resolve) => {
    connection.onData = (bytes) => {
      received.push(new Uint8Array(bytes));
      receivedBytes += bytes.length;
      if (receivedBytes >= sent.length) resolve();
    };
  });
  let at = 0;
  for (const size of sizes) {
    await connection.send([sent.subarray(at, at + size)]);
    at += size;
  }
  await done;
  expect(Buffer.concat(received).equals(sent)).toBe(true);
  expect(connection.acceptedBytes).toBe(sent.length);
  expect(connection.writtenBytes).toBe(sent.length);
  connection.close("done");
});

test("a sender is told to wait while its peer does not read, and goes on when it does", async () => {
  let serverSide: Connection | null = null;
  let receivedBytes = 0;
  const server = await serve(node, (connection) => {
    serverSide = connection;
    connection.pause();
    connection.onData = (bytes) => {
      receivedBytes += bytes.length;
    };
  });
  const connection = await connect(server, tenant);
  const part = new Uint8Array(4 * 1024 * 1024);
  let room: Promise<void> | undefined;
  let sentBytes = 0;
  while (room === undefined) {
    room = connection.send([part]);
    sentBytes += part.length;
    expect(sentBytes).toBeLessThan(100 * 1024 * 1024);
    await Bun.sleep(1);
  }
  while (serverSide === null) await Bun.sleep(1);
  (serverSide as Connection).resume();
  await room;
  while (receivedBytes < sentBytes) await Bun.sleep(1);
  connection.close("done");
});

test("close() sends what is queued first; destroy() drops it", async () => {
  let receivedBytes = 0;
  const closed = Promise.withResolvers<string>();
  const server = await serve(node, (connection) => {
    connection.onData = (bytes) => {
      receivedBytes += bytes.length;
    };
    connection.onClose = closed.resolve;
  });
  const connection = await connect(server, tenant);
  const ours = ended(connection);
  connection.send([new Uint8Array(5_000_000)]);
  connection.close("finished");
  expect(await ours).toBe("finished");
  await closed.promise;
  expect(receivedBytes).toBe(5_000_000);

  const second = await connect(server, tenant);
  second.send([new Uint8Array(5_000)]);
  second.destroy("never mind");
  expect(second.closed).toBe(true);
  expect(second.writtenBytes).toBe(0);
});

test("a client with a certificate of another CA, an expired one or none never becomes a connection", async () => {
  const server = await serve(node);
  const alien = await makeIdentity(otherCa, { uri: "spiffe://c/tenant/t1" }, undefined, ca);
  const expired = await makeIdentity(ca, { uri: "spiffe://c/tenant/t1" }, { fromDays: -10, toDays: -1 });
  for (const identity of [alien, expired]) {
    const connection = await connect(server, identity).catch(() => null);
    if (connection !== null && !connection.closed) await ended(connection);
  }
  const bare = Promise.withResolvers<void>();
  await Bun.connect({
    hostname: "127.0.0.1",
    port: server.listener.port,
    tls: { ca: ca.pem, rejectUnauthorized: false },
    socket: { open() {}, data() {}, close: () => bare.resolve(), error() {} },
  });
  await bare.promise;
  while (server.rejected.length < 3) await Bun.sleep(1);
  expect(server.accepted).toEqual([]);
  expect(server.rejected.join("\n")).toContain("not issued by the cluster's CA");
  expect(server.rejected.join("\n")).toContain("expired");
});

test("nothing older than TLS 1.3 is spoken", async () => {
  const server = await serve(node);
  const closed = Promise.withResolvers<void>();
  const old = { ca: ca.pem, cert: tenant.cert, key: tenant.key, rejectUnauthorized: false, maxVersion: 0x0303 };
  await Bun.connect({
    hostname: "127.0.0.1",
    port: server.listener.port,
    tls: old,
    socket: { open() {}, data() {}, close: () => closed.resolve(), error() {} },
  });
  await closed.promise;
  while (server.rejected.length < 1) await Bun.sleep(1);
  expect(server.accepted).toEqual([]);
});

test("a client refuses a node of another CA, an expired one, and a tenant that plays node", async () => {
  const impostors = [
    await makeIdentity(otherCa, { uri: "spiffe://c/node/n1", dns: "localhost", ip: "127.0.0.1" }),
    // Chain and host name are both wrong: the passed-over name check must not hide the chain.
    await makeIdentity(otherCa, { uri: "spiffe://c/node/n1", dns: "elsewhere.example" }),
    await makeIdentity(ca, { uri: "spiffe://c/node/n1", dns: "elsewhere.example" }, { fromDays: -10, toDays: -1 }),
    tenant,
    await makeIdentity(ca, { uri: "spiffe://c/tenant/t1, URI:spiffe://c/node/n1", ip: "127.0.0.1" }),
    await makeIdentity(ca, { dns: "spiffe://c/node/n1", ip: "127.0.0.1" }),
  ];
  for (const impostor of impostors) expect(await kindOf(connect(await serve(impostor), tenant))).toBe("tls");
});

test("a node is accepted by its name from the CA, whatever address it is reached at", async () => {
  const server = await serve(await makeIdentity(ca, { uri: "spiffe://c/node/n2", dns: "elsewhere.example" }));
  const connection = await connect(server, tenant);
  expect(connection.peer.sanUris).toEqual(["spiffe://c/node/n2"]);
  connection.close("done");
});

test("connecting fails as unreachable, timeout or tls", async () => {
  const server = await serve(node);
  server.listener.close();
  expect(await kindOf(connect(server, tenant))).toBe("unreachable");

  const mute = Bun.listen({ hostname: "127.0.0.1", port: 0, socket: { data() {} } });
  closeAfter.push({ close: () => mute.stop(true) });
  expect(await kindOf(tcpTls.connect({ host: "127.0.0.1", port: mute.port, tls: tenant, timeoutMs: 50 }))).toBe("timeout");
  const given = AbortSignal.timeout(20);
  expect(await kindOf(tcpTls.connect({ host: "127.0.0.1", port: mute.port, tls: tenant, timeoutMs: 5_000, signal: given }))).toBe(
    "aborted",
  );
  expect(await kindOf(tcpTls.connect({ host: "127.0.0.1", port: mute.port, tls: { ...tenant, key: node.key }, timeoutMs: 5_000 }))).toBe(
    "tls",
  );

  const plain = Bun.listen({
    hostname: "127.0.0.1",
    port: 0,
    socket: { data: (socket) => void socket.end("HTTP/1.1 400 Bad Request\r\n\r\n") },
  });
  closeAfter.push({ close: () => plain.stop(true) });
  expect(await kindOf(tcpTls.connect({ host: "127.0.0.1", port: plain.port, tls: tenant, timeoutMs: 5_000 }))).toBe("tls");
});

test("an address in use is reported", async () => {
  const server = await serve(node);
  const second = tcpTls.listen({ host: "127.0.0.1", port: server.listener.port, tls: node }, () => {});
  expect(second).rejects.toMatchObject({ code: "EADDRINUSE" });
});

test("URI names are read from plain entries only", () => {
  expect(uriNames("DNS:a, URI:spiffe://c/node/n, IP Address:127.0.0.1, URI:x:y")).toEqual(["spiffe://c/node/n", "x:y"]);
  expect(uriNames('URI:"spiffe://c/tenant/t\\u002c URI:spiffe://c/node/n"')).toEqual([]);
  expect(uriNames("DNS:URI:spiffe://c/node/n")).toEqual([]);
  expect(uriNames(undefined)).toEqual([]);
});
