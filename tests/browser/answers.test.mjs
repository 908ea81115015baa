// Every row of tests/data/answers.json, over real HTTP. Run by test_stream_js_node.py.

import assert from "node:assert/strict";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import { after, before, test } from "node:test";

import { Stream } from "../../stores/streamstores/http/chat/stream.js";
import { event } from "./scripted_fetch.mjs";
import { MemoryStorage, until } from "./scripted_stream.mjs";

const table = JSON.parse(readFileSync(new URL("../data/answers.json", import.meta.url)));
const LOCATIONS = { redirect: "/moved", loop: "/loop" };

/** A server whose requests wait until the test answers them; `/loop` leads to itself. */
class HttpServer {
  #waiting = [];
  #server = createServer((request, response) => {
    const { pathname, searchParams } = new URL(request.url, "http://server.test");
    if (pathname === LOCATIONS.loop) {
      this.give(response, "loop");
      return;
    }
    const mode = searchParams.get("mode");
    const shown = mode && pathname !== LOCATIONS.redirect ? ` mode=${mode}` : "";
    this.#waiting.push({ label: `${request.method} ${pathname}${shown}`, response });
  });

  async open() {
    this.#server.listen(0, "127.0.0.1");
    await once(this.#server, "listening");
    this.endpoint = `http://127.0.0.1:${this.#server.address().port}/stream`;
  }

  close() {
    this.#server.closeAllConnections();
    this.#server.close();
  }

  async next() {
    await until(() => this.#waiting.length > 0);
    return this.#waiting.shift();
  }

  forget() {
    this.#waiting.length = 0;
  }

  openStream(response) {
    response.writeHead(200, { "Content-Type": "text/event-stream", "X-Stream-Id": "x" });
    response.write(event("stream-id", "x") + event("", "one", 3));
  }

  give(response, answer) {
    if (answer === "html") {
      response.writeHead(200, { "Content-Type": "text/html" }).end("<p>Please sign in</p>");
    } else if (answer in LOCATIONS) {
      response.writeHead(307, { Location: LOCATIONS[answer] }).end();
    } else {
      const body = JSON.stringify({ error: "no", code: `code_${answer}` });
      response.writeHead(answer, { "Content-Type": "application/json" }).end(body);
    }
  }
}

const server = new HttpServer();
before(() => server.open());
after(() => server.close());

/** Bring the client to the point where it makes the request of that name. */
async function reach(name, stream) {
  if (name === "follow") {
    void stream.follow("stored");
    return server.next();
  }
  void stream.send("Why?");
  const first = await server.next();
  if (name === "send") return first;
  server.openStream(first.response);
  await until(() => stream.offset === 3);
  if (name === "reconnect") first.response.destroy();
  if (name === "resume") {
    first.response.end(event("stopped") + event("done"));
    await until(() => stream.status === "stopped");
    void stream.resume();
  }
  if (name === "stop") stream.stopped = stream.stop();
  return server.next();
}

for (const row of table.rows) {
  for (const answer of row.answers) {
    test(`${row.request} answered ${answer}: ${row.then}`, { timeout: 60_000 }, async () => {
      const storage = new MemoryStorage();
      const { endpoint } = server;
      const stream = new Stream({ endpoint, backoff: 1, persist: "id", storage });
      const { response } = await reach(row.request, stream);
      if (row.request === "follow") storage.setItem("id", "stored");
      server.give(response, answer);
      if (row.then !== "error") {
        assert.equal((await server.next()).label, row.then);
        assert.equal(stream.canResume, false);
      } else {
        if (row.request === "stop") assert.equal(await stream.stopped, false);
        else await until(() => stream.status === "error");
        assert.equal(stream.error.code, row.error ?? `code_${answer}`);
        assert.equal(storage.getItem("id") === null, row.forgets);
      }
      stream.destroy();
      server.forget();
    });
  }
}
