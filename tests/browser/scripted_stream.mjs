// Shared by the tests of the JavaScript client: a stream on a scripted server.

import { Stream } from "../../stores/streamstores/http/chat/stream.js";
import { ScriptedServer, event } from "./scripted_fetch.mjs";

export const DONE = event("done");
export const STOPPED = event("stopped") + DONE;

/** A stream whose requests wait for the test. */
export function start(options = {}) {
  const server = new ScriptedServer();
  const stream = new Stream({
    endpoint: "/stream",
    fetch: server.fetch,
    backoff: 1,
    ...options,
  });
  return { server, stream };
}

/** Wait for a condition. */
export async function until(condition) {
  while (!condition()) await new Promise((resolve) => setTimeout(resolve, 1));
}

/** Let everything happen that waits for no timer. */
export function settle() {
  return new Promise((resolve) => setImmediate(resolve));
}

export class MemoryStorage {
  items = new Map();
  getItem = (key) => this.items.get(key) ?? null;
  setItem = (key, value) => this.items.set(key, value);
  removeItem = (key) => this.items.delete(key);
}
