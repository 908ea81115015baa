// Every row of tests/data/transitions.json. Run by test_stream_js_node.py.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import { Stream } from "../../stores/streamstores/http/chat/stream.js";
import { ScriptedServer, event } from "./scripted_fetch.mjs";

const table = JSON.parse(readFileSync(new URL("../data/transitions.json", import.meta.url)));
const ANSWERS = new Set(["open", "open_unkept", "fail", "busy", "gone", "reject"]);

/** Causes the events of the table, one by one. */
class Driver {
  server = new ScriptedServer();
  stream = new Stream({
    endpoint: "/stream",
    fetch: this.server.fetch,
    backoff: 1,
    maxReconnects: table.max_reconnects,
    lookEvery: 1,
  });
  offset = 0;
  exchange = null;
  isWatching = false;

  async cause(name) {
    if (ANSWERS.has(name)) this.exchange = await this.server.next();
    await this[name]();
  }

  send() {
    this.server.forget();
    this.offset = 0;
    void this.stream.send("Why?");
  }

  retry() {
    this.server.forget();
    this.offset = 0;
    void this.stream.retry();
  }

  follow() {
    this.server.forget();
    this.offset = 0;
    void this.stream.follow("an id");
  }

  resume() {
    void this.stream.resume();
  }

  abort() {
    this.stream.abort();
  }

  async stop() {
    const stopped = this.stream.stop();
    if (this.stream.loading)
      await this.#confirmStop("stopped", event("stopped"), event("done"));
    await stopped;
  }

  async stop_late() {
    const stopped = this.stream.stop();
    await this.#confirmStop("done", event("done"));
    await stopped;
  }

  async #confirmStop(state, ...events) {
    const exchange = await this.server.next("POST /stream/stop");
    exchange.answer(200, { id: this.stream.streamId, state, tail: this.offset });
    this.exchange.send(...events);
  }

  async stop_lost() {
    const stopped = this.stream.stop();
    for (let n = 0; n <= table.max_reconnects; n++) {
      (await this.server.next("POST /stream/stop")).fail();
    }
    assert.equal(await stopped, false);
  }

  open() {
    this.exchange.open();
    return this.until(() => this.stream.status === "streaming");
  }

  text() {
    this.offset += 6;
    this.exchange.send(event("", "a text", this.offset));
    return this.until(() => this.stream.offset === this.offset);
  }

  async ping() {
    this.exchange.send(event("ping"));
    await this.text(); // arrives after it
  }

  open_unkept() {
    this.exchange.openUnkept();
    return this.until(() => this.stream.status === "streaming");
  }

  text_unkept() {
    const expected = `${this.stream.text}a text`;
    this.exchange.send(event("", "a text"));
    return this.until(() => this.stream.text === expected);
  }

  async stop_unkept() {
    assert.equal(await this.stream.stop(), true);
  }

  async look() {
    (await this.#nextLook()).answer(200, { state: "stopped", tail: this.offset });
  }

  async continued() {
    (await this.#nextLook()).answer(200, { state: "streaming", tail: this.offset });
    await this.until(() => this.stream.loading);
  }

  async still_away() {
    (await this.#nextLook()).fail();
  }

  async back() {
    await this.continued();
  }

  /** Only a subscribed stream is watched, so the other rows see no looks. */
  #nextLook() {
    if (!this.isWatching) this.stream.subscribe(() => {});
    this.isWatching = true;
    return this.server.next("GET /stream/status");
  }

  server_stopped() {
    this.exchange.send(event("stopped"), event("done"));
  }

  server_error() {
    this.exchange.send(event("error", "it broke"), event("done"));
  }

  server_done() {
    this.exchange.send(event("done"));
  }

  cut() {
    this.exchange.cut();
    return this.untilNotStreaming();
  }

  end() {
    this.exchange.end();
    return this.untilNotStreaming();
  }

  fail() {
    this.exchange.fail();
    return this.untilAskedAgain();
  }

  busy() {
    this.exchange.refuse(503, "store_unavailable", { "Retry-After": "0" });
    return this.untilAskedAgain();
  }

  gone() {
    this.exchange.refuse(404, "not_found");
  }

  reject() {
    this.exchange.refuse(403, "forbidden");
  }

  untilAskedAgain() {
    return this.until(() => this.server.isAsked || !this.stream.loading);
  }

  untilNotStreaming() {
    return this.until(() => this.stream.status !== "streaming");
  }

  /** Wait for a condition on what the stream shows and the server was asked. */
  async until(condition) {
    while (!condition()) await new Promise((resolve) => setTimeout(resolve, 1));
  }
}

for (const { from, on, to, request, canResume: ofRow } of table.transitions) {
  test(`${from}, ${on.join(", ")}: ${to}`, { timeout: 60_000 }, async () => {
    const driver = new Driver();
    const { server, stream } = driver;
    for (const name of table.reach[from]) await driver.cause(name);
    await driver.until(() => stream.status === from);
    for (const name of on) await driver.cause(name);
    await driver.until(() => stream.status === to && (to !== "reconnecting" || server.isAsked));
    if (request) await driver.until(() => server.lastLabel === request);
    const { loading, canResume: ofState } = table.states[to];
    const canResume = ofRow ?? ofState;
    assert.deepEqual({ status: to, loading, canResume }, pick(stream.getSnapshot()));
    assert.equal(stream.loading, loading);
    assert.equal(stream.canResume, canResume);
    stream.destroy();
  });
}

function pick({ status, loading, canResume }) {
  return { status, loading, canResume };
}
