// The client as a store of a Svelte component.

import { onDestroy } from "svelte";

import { Stream } from "./stream.js";

/**
 * A stream that lives as long as the component that calls this while it is initialised. It is a
 * Svelte store of its state: `$stream.text`.
 *
 * @param {import("./stream.js").Options} options
 */
export function createStream(options) {
  const stream = new Stream(options);
  onDestroy(() => stream.destroy());
  return stream;
}

export { Stream, StreamError } from "./stream.js";
