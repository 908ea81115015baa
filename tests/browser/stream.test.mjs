// What a user of the JavaScript client sees. Run by test_stream_js_node.py.

import assert from "node:assert/strict";
import { test } from "node:test";

import { Stream, StreamError } from "../../stores/streamstores/http/chat/stream.js";
import { event } from "./scripted_fetch.mjs";
import { DONE, start, until } from "./scripted_stream.mjs";

test("a stream needs an endpoint", () => {
  assert.throws(() => new Stream({}), TypeError);
});

test("send posts the prompt, the options and an id made here", async () => {
  const { server, stream } = start({
    model: "smart",
    system: "Be brief.",
    headers: { "X-Token": "t" },
  });
  const sent = stream.send("Why?", { messages: [{ role: "user", content: "Hi" }] });
  const exchange = await server.next("POST /stream");
  assert.deepEqual(exchange.request.body, {
    prompt: "Why?",
    model: "smart",
    system: "Be brief.",
    messages: [{ role: "user", content: "Hi" }],
    id: stream.streamId,
  });
  assert.match(stream.streamId, /^[0-9a-f-]{36}$/);
  assert.equal(exchange.request.headers.get("X-Token"), "t");
  assert.match(exchange.request.headers.get("Accept"), /text\/event-stream; text=json/);
  exchange.open();
  exchange.send(event("", "Because.", 8), DONE);
  assert.equal((await sent).text, "Because.");
});

test("a function makes the headers of each request", async () => {
  let token = 0;
  const { server, stream } = start({
    headers: async () => ({ Authorization: `Bearer ${++token}` }),
  });
  void stream.send("Why?");
  (await server.next()).fail();
  await server.next();
  assert.deepEqual(
    server.requests.map((r) => r.headers.get("Authorization")),
    ["Bearer 1", "Bearer 2"],
  );
  stream.abort();
});

test("a POST whose answer is lost is repeated with the same id", async () => {
  const { server, stream } = start();
  void stream.send("Why?");
  (await server.next("POST /stream")).fail();
  const exchange = await server.next("POST /stream");
  assert.equal(server.requests[0].id, server.requests[1].id);
  exchange.open();
  exchange.send(event("", "Because.", 8), DONE);
  await until(() => stream.status === "done");
  assert.equal(stream.text, "Because.");
});

test("text is exact: CR, CR LF, U+2028, NUL, BOM, emoji", async () => {
  const pieces = ["\ufeffa\n", "b\r\nc\rd", "\u2028\u2029\0", "👩‍👩‍👧", "\r", "\n", " \n\n "];
  const { server, stream } = start();
  void stream.send("Why?");
  const exchange = await server.next();
  exchange.open();
  let offset = 0;
  for (const piece of pieces) {
    offset += new TextEncoder().encode(piece).length;
    const name = piece.includes("\r") ? "text" : "";
    exchange.send(event(name, name ? JSON.stringify(piece) : piece, offset));
  }
  exchange.send(DONE);
  await until(() => stream.status === "done");
  assert.equal(stream.text, pieces.join(""));
  assert.equal(stream.offset, offset);
});

test("a reconnect asks for what is missing, and a repeated event is taken once", async () => {
  const events = [];
  const { server, stream } = start({ onEvent: (each) => events.push(each) });
  void stream.send("Why?");
  const first = await server.next();
  first.open();
  first.send(event("", "one ", 4), event("usage", '{"n":1}', 20));
  await until(() => stream.offset === 20);
  first.cut();
  const second = await server.next("GET /stream/resume mode=follow");
  assert.equal(second.request.after, 20);
  second.open();
  second.send(event("", "one ", 4), event("usage", '{"n":1}', 20), event("", "two", 23), DONE);
  await until(() => stream.status === "done");
  assert.equal(stream.text, "one two");
  assert.deepEqual(events, [{ name: "usage", data: '{"n":1}', offset: 20 }]);
});

test("an event that the model called message is an event, not text", async () => {
  const events = [];
  const { server, stream } = start({ onEvent: ({ name }) => events.push(name) });
  void stream.send("Why?");
  const exchange = await server.next();
  exchange.open();
  exchange.send(event("message", "hello", 10), DONE);
  await until(() => stream.status === "done");
  assert.equal(stream.text, "");
  assert.deepEqual(events, ["message"]);
});

test("subscribers are told once for a chunk, and the snapshot stays the same between", async () => {
  const seen = [];
  const { server, stream } = start();
  stream.subscribe((snapshot) => seen.push(snapshot));
  void stream.send("Why?");
  const exchange = await server.next();
  exchange.open();
  await until(() => stream.status === "streaming");
  const before = seen.length;
  exchange.send(Array.from({ length: 100 }, (_, n) => event("", "x", n + 1)).join(""));
  await until(() => stream.offset === 100);
  assert.equal(seen.length, before + 1);
  assert.equal(seen.at(-1).text, "x".repeat(100));
  assert.equal(seen.at(-1), stream.getSnapshot());
  exchange.send(event("ping"), event("ping"));
  exchange.send(event("", "y", 101));
  await until(() => stream.offset === 101);
  assert.equal(seen.length, before + 2); // a ping changes nothing
  stream.abort();
});

test("subscribe calls at once, and no more after its end", () => {
  const { stream } = start();
  const seen = [];
  const { subscribe, getSnapshot } = stream; // as React takes them
  const unsubscribe = subscribe((snapshot) => seen.push(snapshot.status));
  assert.equal(getSnapshot(), getSnapshot());
  unsubscribe();
  void stream.send("Why?");
  assert.deepEqual(seen, ["idle"]);
  stream.abort();
});

test("a listener that throws leaves the stream alone", async (t) => {
  const thrown = [];
  globalThis.reportError = (error) => thrown.push(error.message); // as browsers have it
  t.after(() => delete globalThis.reportError);
  const { server, stream } = start({
    onText: () => {
      throw new Error("from a listener");
    },
  });
  const seen = [];
  stream.subscribe(({ text }) => seen.push(text));
  void stream.send("Why?");
  const exchange = await server.next();
  exchange.open();
  exchange.send(event("", "a", 1), DONE);
  await until(() => stream.status === "done" && thrown.length > 0);
  assert.equal(seen.at(-1), "a");
  assert.deepEqual(thrown, ["from a listener"]);
});

test("a listener may begin another stream in the middle of a chunk", async () => {
  const pieces = [];
  let isFirst = true;
  const onText = (piece) => {
    pieces.push(piece);
    if (isFirst) void stream.send("Why not?");
    isFirst = false;
  };
  const { server, stream } = start({ onText });
  void stream.send("Why?");
  const first = await server.next();
  first.open();
  first.send(event("", "a", 1) + event("", "b", 2));
  const second = await server.next();
  second.open();
  second.send(event("", "c", 1), DONE);
  await until(() => stream.status === "done");
  assert.deepEqual(pieces, ["a", "c"]);
  assert.equal(stream.text, "c");
});

test("a second send lets go of the first stream", async () => {
  const { server, stream } = start();
  const first = stream.send("Why?");
  const old = await server.next();
  old.open();
  old.send(event("", "old", 3));
  await until(() => stream.text === "old");
  const second = stream.send("Why not?");
  const exchange = await server.next();
  exchange.open();
  exchange.send(event("", "new", 3), DONE);
  assert.equal((await second).text, "new");
  await first;
  assert.equal(old.request.signal.aborted, true);
});

test("retry sends the last prompt and its options under a new id", async () => {
  const { server, stream } = start();
  void stream.send("Why?", { model: "smart", id: "mine" });
  const first = await server.next();
  assert.equal(first.request.id, "mine");
  first.refuse(403, "forbidden");
  await until(() => stream.status === "error");
  void stream.retry();
  const { body } = (await server.next()).request;
  assert.deepEqual([body.prompt, body.model], ["Why?", "smart"]);
  assert.notEqual(body.id, "mine");
  stream.abort();
});

test("a failed stream has a message, and a refused request has a code and a status", async () => {
  const { server, stream } = start();
  void stream.send("Why?");
  const exchange = await server.next();
  exchange.open();
  exchange.send(event("error", "the model broke"), DONE);
  await until(() => stream.status === "error");
  assert.equal(stream.error.message, "the model broke");
  void stream.retry();
  (await server.next()).refuse(400, "unknown_model");
  await until(() => stream.status === "error");
  assert.ok(stream.error instanceof StreamError);
  assert.deepEqual([stream.error.code, stream.error.status], ["unknown_model", 400]);
});

test("follow without an id anywhere does nothing", async () => {
  const { server, stream } = start();
  assert.equal((await stream.follow()).status, "idle");
  assert.equal(server.requests.length, 0);
});

test("an id is escaped in the address", async () => {
  const { server, stream } = start();
  void stream.follow("a b&c=d/é😀%");
  assert.equal((await server.next()).request.id, "a b&c=d/é😀%");
  stream.abort();
});

test("after destroy the stream is disconnected, and resume reads on", async () => {
  const { server, stream } = start();
  void stream.send("Why?");
  const first = await server.next();
  first.open();
  first.send(event("", "one ", 4));
  await until(() => stream.offset === 4);
  stream.destroy();
  assert.equal(stream.status, "disconnected");
  assert.equal(first.request.signal.aborted, true);
  void stream.resume();
  const second = await server.next("POST /stream/resume");
  assert.equal(second.request.after, 4);
  second.open();
  second.send(event("", "two", 7), DONE);
  await until(() => stream.status === "done");
  assert.equal(stream.text, "one two");
});
