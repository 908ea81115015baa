// What the table of transitions does not say, run by test_stream_js_node.py.

import assert from "node:assert/strict";
import { mock, test } from "node:test";

import { Stream, StreamError } from "../../stores/streamstores/http/chat/stream.js";
import { ScriptedServer, event } from "./scripted_fetch.mjs";

const DONE = event("done");
const STOPPED = event("stopped") + DONE;

function start(options = {}) {
  const server = new ScriptedServer();
  const stream = new Stream({
    endpoint: "/stream",
    fetch: server.fetch,
    backoff: 1,
    ...options,
  });
  return { server, stream };
}

async function until(condition) {
  while (!condition()) await new Promise((resolve) => setTimeout(resolve, 1));
}

/** Let everything happen that waits for no timer. */
function settle() {
  return new Promise((resolve) => setImmediate(resolve));
}

class MemoryStorage {
  items = new Map();
  getItem = (key) => this.items.get(key) ?? null;
  setItem = (key, value) => this.items.set(key, value);
  removeItem = (key) => this.items.delete(key);
}

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

test("headers may be made anew for each request", async () => {
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

test("a reconnect asks for what is missing, and what comes twice is taken once", async () => {
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

test("a listener that throws does not hurt the stream", async (t) => {
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

test("a stop that overtakes its own send is told again when the stream is there", async () => {
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

test("a stop of a send that never arrived leaves nothing, and starts nothing", async () => {
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

test("stop reads what the server has saved before it says stopped", async () => {
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

test("stop is at its end where all that was saved is here, whatever the connection does", async () => {
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

test("a silent connection is given up and made anew", async () => {
  const { server, stream } = start();
  void stream.send("Why?");
  (await server.next()).open(0.01);
  const again = await server.next("GET /stream/resume mode=follow");
  assert.equal(stream.status, "reconnecting");
  again.open();
  again.send(DONE);
  await until(() => stream.status === "done");
});

test("Retry-After is waited for", async (t) => {
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

test("the pauses double, and half of each is chance", async (t) => {
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

test("a second send leaves the first stream behind", async () => {
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

test("an error of the stream is its message, an error of a request has a code and a status", async () => {
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

test("an answer that is no event stream is an error, and not asked for again", async () => {
  const { server, stream } = start();
  void stream.send("Why?");
  (await server.next()).answer(200, { hello: "world" });
  await until(() => stream.status === "error");
  assert.equal(stream.error.code, "bad_answer");
  assert.equal(server.requests.length, 1);
});

test("an answer of somebody else on the way back is asked for again", async () => {
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

test("the id is stored at once, replaced by the next, and forgotten with the stream", async () => {
  const storage = new MemoryStorage();
  const { server, stream } = start({ persist: "chat", storage });
  void stream.send("Why?");
  assert.equal(storage.getItem("chat"), stream.streamId);
  void stream.send("Why not?");
  assert.equal(storage.getItem("chat"), stream.streamId);
  server.forget();
  stream.abort();
  assert.equal(storage.getItem("chat"), null);
  assert.equal(stream.streamId, null);
  storage.setItem("chat", "an id");
  void stream.follow();
  (await server.next("GET /stream/resume mode=follow")).refuse(404, "not_found");
  await until(() => stream.status === "error");
  assert.equal(storage.getItem("chat"), null);
});

test("a storage that refuses does not hurt", async () => {
  const refuse = () => {
    throw new Error("full");
  };
  const storage = { getItem: refuse, setItem: refuse, removeItem: refuse };
  const { server, stream } = start({ persist: "chat", storage });
  void stream.send("Why?");
  const exchange = await server.next();
  exchange.open();
  exchange.send(DONE);
  await until(() => stream.status === "done");
  await stream.follow();
  void stream.send("Why?");
  stream.abort();
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
