// How the JavaScript client watches a stream at rest. Run by test_stream_js_node.py.

import assert from "node:assert/strict";
import { mock, test } from "node:test";

import { event } from "./scripted_fetch.mjs";
import { DONE, STOPPED, settle, start, until } from "./scripted_stream.mjs";

const LOOK = "GET /stream/status";
const FOLLOW = "GET /stream/resume mode=follow";

/** A stopped stream of three bytes. */
async function startStopped(options) {
  const { server, stream } = start(options);
  void stream.send("Why?");
  const exchange = await server.next();
  exchange.open();
  exchange.send(event("", "one", 3), STOPPED);
  await until(() => stream.status === "stopped");
  return { server, stream };
}

test("a subscribed stream goes on when it is continued elsewhere", async () => {
  const { server, stream } = await startStopped({ lookEvery: 1 });
  stream.subscribe(() => {});
  (await server.next(LOOK)).answer(200, { state: "stopped", tail: 3 });
  (await server.next(LOOK)).answer(200, { state: "streaming", tail: 3 });
  const exchange = await server.next(FOLLOW);
  assert.equal(exchange.request.after, 3);
  exchange.open();
  exchange.send(event("", "two", 6), DONE);
  await until(() => stream.status === "done");
  assert.equal(stream.text, "onetwo");
});

test("a stream that was continued and stopped again between two looks is read", async () => {
  const { server, stream } = await startStopped({ lookEvery: 1 });
  stream.subscribe(() => {});
  (await server.next(LOOK)).answer(200, { state: "stopped", tail: 6 });
  const exchange = await server.next(FOLLOW);
  exchange.open();
  exchange.send(event("", "two", 6), STOPPED);
  await until(() => stream.status === "stopped" && stream.offset === 6);
  stream.destroy();
});

test("a stream that the server refuses to show is not looked at again", async (t) => {
  mock.timers.enable({ apis: ["setTimeout"] });
  t.after(() => mock.timers.reset());
  const { server, stream } = start({ lookEvery: 10 });
  void stream.send("Why?");
  const exchange = await server.next();
  exchange.open();
  exchange.send(STOPPED);
  await settle();
  assert.equal(stream.status, "stopped");
  stream.subscribe(() => {});
  mock.timers.tick(10);
  (await server.next(LOOK)).refuse(403, "forbidden");
  await settle();
  mock.timers.tick(1_000_000);
  await settle();
  assert.equal(server.isAsked, false);
  assert.equal(stream.status, "stopped");
});

test("looks become rarer, and no view means no look", async (t) => {
  mock.timers.enable({ apis: ["setTimeout"] });
  t.after(() => mock.timers.reset());
  const { server, stream } = start({ lookEvery: 1_000 });
  void stream.send("Why?");
  const exchange = await server.next();
  exchange.open();
  exchange.send(STOPPED);
  await settle();
  const unsubscribe = stream.subscribe(() => {});
  for (let n = 0; n < 8; n++) {
    mock.timers.tick(Math.min(1_000 * 1.5 ** n, 10_000) - 1);
    await settle();
    assert.equal(server.isAsked, false);
    mock.timers.tick(1);
    await settle();
    (await server.next(LOOK)).fail();
    await settle();
  }
  unsubscribe();
  mock.timers.tick(100_000);
  await settle();
  assert.equal(server.isAsked, false);
});

test("destroy ends the looks", async () => {
  const { server, stream } = await startStopped({ lookEvery: 1 });
  stream.subscribe(() => {});
  const look = await server.next(LOOK);
  stream.destroy();
  look.answer(200, { state: "streaming", tail: 3 });
  await settle();
  assert.equal(stream.status, "stopped");
  assert.equal(server.isAsked, false);
});

test("a lost server is looked for, and the stream goes on when it is back", async () => {
  const { server, stream } = start({ lookEvery: 1, maxReconnects: 0 });
  stream.subscribe(() => {});
  void stream.send("Why?");
  const first = await server.next();
  first.open();
  first.send(event("", "one", 3));
  await until(() => stream.offset === 3);
  first.cut();
  await until(() => stream.status === "disconnected");
  (await server.next(LOOK)).fail();
  (await server.next(LOOK)).answer(200, { state: "stopped", tail: 3 });
  const second = await server.next(FOLLOW);
  second.open();
  second.send(STOPPED);
  await until(() => stream.status === "stopped");
  stream.destroy();
});
