// When the JavaScript client tries again. Run by test_stream_js_node.py.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { mock, test } from "node:test";

import { event } from "./scripted_fetch.mjs";
import { DONE, settle, start, until } from "./scripted_stream.mjs";

test("a silent connection is replaced", async () => {
  const { server, stream } = start();
  void stream.send("Why?");
  (await server.next()).open(0.01);
  const again = await server.next("GET /stream/resume mode=follow");
  assert.equal(stream.status, "reconnecting");
  again.open();
  again.send(DONE);
  await until(() => stream.status === "done");
});

test("the pause lasts as long as Retry-After asks", async (t) => {
  mock.timers.enable({ apis: ["setTimeout"] });
  t.after(() => mock.timers.reset());
  const { server, stream } = start();
  void stream.send("Why?");
  const exchange = await server.next();
  exchange.refuse(429, "too_many_streams", { "Retry-After": "7" });
  while (stream.status !== "reconnecting") await Promise.resolve();
  await settle();
  mock.timers.tick(6_999);
  await settle();
  assert.equal(server.isAsked, false);
  mock.timers.tick(1);
  await server.next("POST /stream");
  stream.abort();
});

test("the pauses double, and up to half of each is left to chance", async (t) => {
  mock.timers.enable({ apis: ["setTimeout"] });
  t.after(() => mock.timers.reset());
  const { server, stream } = start({ backoff: 1_000 });
  void stream.send("Why?");
  let exchange = await server.next();
  for (const pauseMs of [1_000, 2_000, 4_000]) {
    exchange.fail();
    await settle();
    mock.timers.tick(pauseMs / 2 - 1);
    await settle();
    assert.equal(server.isAsked, false);
    mock.timers.tick(pauseMs / 2 + 1);
    exchange = await server.next("POST /stream");
  }
  exchange.fail();
  while (stream.status !== "disconnected") await Promise.resolve();
  assert.equal(stream.error.code, "network");
});

test("resume ends a pause", async () => {
  const { server, stream } = start({ backoff: 3_600_000 });
  void stream.send("Why?");
  (await server.next()).fail();
  await until(() => stream.status === "reconnecting");
  await settle();
  void stream.resume();
  await server.next("POST /stream");
  stream.abort();
});

test("an answer that is not an event stream is an error, and the request is not repeated", async () => {
  const { server, stream } = start();
  void stream.send("Why?");
  (await server.next()).answer(200, { hello: "world" });
  await until(() => stream.status === "error");
  assert.equal(stream.error.code, "bad_answer");
  assert.equal(server.requests.length, 1);
});

test("a page that answers a reconnect is a reason to try again", async () => {
  const { server, stream } = start();
  void stream.send("Why?");
  const first = await server.next();
  first.open();
  await until(() => stream.status === "streaming");
  first.cut();
  (await server.next()).answer(200, "please sign in");
  const again = await server.next("GET /stream/resume mode=follow");
  again.open();
  again.send(DONE);
  await until(() => stream.status === "done");
});

const table = JSON.parse(readFileSync(new URL("../data/answers.json", import.meta.url)));

for (const { header, seconds } of table.retry_after) {
  test(`Retry-After ${header} is ${seconds} seconds`, async () => {
    const { server, stream } = start({ maxReconnects: 0 });
    void stream.send("Why?");
    (await server.next()).refuse(503, "busy", header === null ? {} : { "Retry-After": header });
    await until(() => stream.status === "disconnected");
    assert.equal(stream.error.retryAfter, seconds * 1_000);
  });
}

test("no pause is longer than the table says", async (t) => {
  mock.timers.enable({ apis: ["setTimeout"] });
  t.after(() => mock.timers.reset());
  const longestMs = table.longest_pause_seconds * 1_000;
  const { server, stream } = start({ backoff: 20_000, maxReconnects: 4 });
  void stream.send("Why?");
  for (let n = 0; n < 4; n++) {
    (await server.next()).fail();
    await settle();
    mock.timers.tick(longestMs);
  }
  await server.next();
  stream.abort();
});

test("a request without an answer is given up after the time of the table", async (t) => {
  mock.timers.enable({ apis: ["setTimeout", "Date"] });
  t.after(() => mock.timers.reset());
  const { server, stream } = start();
  void stream.send("Why?");
  await server.next();
  mock.timers.tick(table.request_timeout_seconds * 1_000 - 1);
  await settle();
  assert.equal(stream.status, "streaming");
  mock.timers.tick(1);
  await settle();
  assert.equal(stream.status, "reconnecting");
  stream.abort();
});

test("an answer that is not kept is an error after a cut, and is not paid for twice", async () => {
  const { server, stream } = start();
  void stream.send("Why?");
  const exchange = await server.next();
  exchange.openUnkept();
  exchange.send(event("", "one"));
  await until(() => stream.text === "one");
  exchange.cut();
  await until(() => stream.status === "error");
  assert.equal(stream.error.code, "not_kept");
  assert.equal(stream.text, "one");
  assert.equal(server.requests.length, 1);
});

for (const ping of ["0", "-1", "NaN", "Infinity", "soon"]) {
  test(`a ping interval of ${ping} is ignored`, async (t) => {
    mock.timers.enable({ apis: ["setTimeout", "Date"] });
    t.after(() => mock.timers.reset());
    const { server, stream } = start();
    void stream.send("Why?");
    const exchange = await server.next();
    exchange.open(ping);
    await settle();
    mock.timers.tick(3 * 15_000 - 1);
    await settle();
    assert.equal(stream.status, "streaming");
    mock.timers.tick(1);
    await settle();
    assert.equal(stream.status, "reconnecting");
    stream.abort();
  });
}

for (const data of ["7", "null", '"unfinished']) {
  test(`the text ${data} is a bad answer`, async () => {
    const { server, stream } = start();
    void stream.send("Why?");
    const exchange = await server.next();
    exchange.open();
    exchange.send(event("text", data, 3), DONE);
    await until(() => stream.status === "error");
    assert.equal(stream.error.code, "bad_answer");
  });
}
