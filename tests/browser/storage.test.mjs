// The stored id of a stream. Run by test_stream_js_node.py.

import assert from "node:assert/strict";
import { test } from "node:test";

import { event } from "./scripted_fetch.mjs";
import { DONE, MemoryStorage, start, until } from "./scripted_stream.mjs";

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

test("a storage that throws at every call leaves the stream alone", async () => {
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

test("a storage that only refuses to remove an id leaves the stream alone", async () => {
  const storage = new MemoryStorage();
  storage.removeItem = () => {
    throw new Error("forbidden");
  };
  const { server, stream } = start({ persist: "chat", storage });
  void stream.send("Why?");
  stream.abort();
  assert.equal(stream.status, "idle");
  server.forget();
  storage.setItem("chat", "an id");
  void stream.follow();
  (await server.next()).refuse(404, "not_found");
  await until(() => stream.status === "error");
});

test("a stored value that is not an id is no stream", async () => {
  const storage = new MemoryStorage();
  storage.getItem = () => Promise.resolve("an id"); // an asynchronous storage
  const { server, stream } = start({ persist: "chat", storage });
  assert.equal((await stream.follow()).status, "idle");
  assert.equal(server.requests.length, 0);
});

test("the id of an answer that is not kept is forgotten", async () => {
  const storage = new MemoryStorage();
  const { server, stream } = start({ persist: "chat", storage });
  void stream.send("Why?");
  const exchange = await server.next();
  exchange.openUnkept();
  exchange.send(event("", "one"), DONE);
  await until(() => stream.status === "done");
  assert.equal(stream.text, "one");
  assert.equal(storage.getItem("chat"), null);
});

test("a stored id that no address can carry is an error once", async () => {
  const storage = new MemoryStorage();
  storage.setItem("chat", "\ud800");
  const { server, stream } = start({ persist: "chat", storage });
  void stream.follow();
  await until(() => stream.status === "error");
  assert.equal(stream.error.code, "invalid_id");
  assert.equal(server.requests.length, 0);
  assert.equal(storage.getItem("chat"), null);
});
