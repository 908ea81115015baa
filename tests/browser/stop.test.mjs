// How the JavaScript client stops a stream. Run by test_stream_js_node.py.

import assert from "node:assert/strict";
import { mock, test } from "node:test";

import { event } from "./scripted_fetch.mjs";
import { DONE, STOPPED, settle, start, until } from "./scripted_stream.mjs";

test("a stop that overtakes its own send is repeated when the stream exists", async () => {
  const { server, stream } = start();
  void stream.send("Why?");
  const sending = await server.next("POST /stream");
  const stopped = stream.stop();
  assert.equal(stream.stopping, true);
  (await server.next("POST /stream/stop")).refuse(404, "not_found");
  sending.open();
  (await server.next("POST /stream/stop")).answer(200, { state: "stopped", tail: 3 });
  sending.send(event("", "Bec", 3), STOPPED);
  assert.equal(await stopped, true);
  assert.deepEqual([stream.status, stream.text, stream.stopping], ["stopped", "Bec", false]);
});

test("a stop of a send that never arrived starts nothing", async () => {
  const { server, stream } = start();
  void stream.send("Why?");
  const sending = await server.next("POST /stream");
  const stopped = stream.stop();
  (await server.next("POST /stream/stop")).refuse(404, "not_found");
  sending.fail();
  (await server.next("GET /stream/resume mode=follow")).refuse(404, "not_found");
  assert.equal(await stopped, true);
  assert.equal(stream.status, "idle");
  assert.equal(server.requests.filter(({ label }) => label === "POST /stream").length, 1);
});

test("stop reads everything that the server has saved before it says stopped", async () => {
  const { server, stream } = start({ maxReconnects: 0 });
  void stream.send("Why?");
  const first = await server.next();
  first.open();
  first.send(event("", "one ", 4));
  await until(() => stream.offset === 4);
  first.cut();
  await until(() => stream.status === "disconnected");
  const stopped = stream.stop();
  (await server.next("POST /stream/stop")).answer(200, { state: "stopped", tail: 7 });
  const rest = await server.next("GET /stream/resume mode=follow");
  assert.equal(stream.status, "reconnecting");
  rest.open();
  rest.send(event("", "two", 7), STOPPED);
  assert.equal(await stopped, true);
  assert.deepEqual([stream.status, stream.text], ["stopped", "one two"]);
});

test("a stream that was stopped and then deleted is gone, not unsent", async () => {
  const { server, stream } = start();
  void stream.send("Why?");
  const sending = await server.next("POST /stream");
  const stopped = stream.stop();
  (await server.next("POST /stream/stop")).answer(200, { state: "stopped", tail: 3 });
  await settle();
  sending.fail();
  (await server.next("GET /stream/resume mode=follow")).refuse(404, "not_found");
  await stopped;
  assert.deepEqual([stream.status, stream.error?.code], ["error", "not_found"]);
});

test("stop ends the pause before a reconnect", async (t) => {
  mock.timers.enable({ apis: ["setTimeout"] });
  t.after(() => mock.timers.reset());
  const { server, stream } = start();
  void stream.send("Why?");
  const first = await server.next();
  first.open();
  await settle();
  first.cut();
  await settle();
  assert.equal(stream.status, "reconnecting");
  void stream.stop();
  (await server.next("POST /stream/stop")).answer(200, { state: "stopped", tail: 3 });
  await server.next("GET /stream/resume mode=follow"); // no timer has been moved
  stream.abort();
});

test("stop is complete when everything saved is here, whatever the connection does", async () => {
  const { server, stream } = start();
  void stream.send("Why?");
  const exchange = await server.next();
  exchange.open();
  exchange.send(event("", "one ", 4));
  await until(() => stream.offset === 4);
  const stopped = stream.stop();
  (await server.next("POST /stream/stop")).answer(200, { state: "stopped", tail: 4 });
  assert.equal(await stopped, true);
  assert.deepEqual([stream.status, stream.canResume], ["stopped", true]);
});

test("a stop that fails says why, and can be tried again", async () => {
  const { server, stream } = start();
  void stream.send("Why?");
  const exchange = await server.next();
  exchange.open();
  await until(() => stream.status === "streaming");
  const refused = stream.stop();
  assert.equal(stream.stop(), refused); // one at a time
  (await server.next("POST /stream/stop")).refuse(403, "forbidden");
  assert.equal(await refused, false);
  assert.equal(stream.status, "streaming");
  assert.equal(stream.error.code, "forbidden");
  const stopped = stream.stop();
  (await server.next("POST /stream/stop")).answer(200, { state: "stopped", tail: 0 });
  assert.equal(await stopped, true);
  assert.deepEqual([stream.status, stream.error], ["stopped", null]);
});

test("a stop does not hide why its own send was refused", async () => {
  const { server, stream } = start();
  void stream.send("Why?");
  const sending = await server.next("POST /stream");
  const stopped = stream.stop();
  (await server.next("POST /stream/stop")).refuse(404, "not_found");
  sending.refuse(400, "unknown_model");
  assert.equal(await stopped, true);
  assert.deepEqual([stream.status, stream.error.code], ["error", "unknown_model"]);
});

test("a stop that is answered before the send makes the stream known", async () => {
  const { server, stream } = start();
  void stream.send("Why?");
  await server.next("POST /stream");
  const stopped = stream.stop();
  (await server.next("POST /stream/stop")).answer(200, { state: "stopped", tail: 0 });
  assert.equal(await stopped, true);
  assert.equal(stream.status, "stopped");
  void stream.resume();
  await server.next("POST /stream/resume");
  stream.abort();
});
