// The client as a hook for React 18 and later.

import { useEffect, useState, useSyncExternalStore } from "react";

import { Stream } from "./stream.js";

/**
 * A stream and its state now. The options of the first rendering count; to follow another
 * stream, give the component another `key`.
 *
 * @param {import("./stream.js").Options} options
 * @returns {import("./stream.js").Snapshot & { stream: Stream }}
 */
export function useStream(options) {
  const [stream] = useState(() => new Stream(options));
  const { subscribe, getSnapshot } = stream;
  const snapshot = useSyncExternalStore(subscribe, getSnapshot, getSnapshot);
  // StrictMode mounts twice: the second subscription reads on after this.
  useEffect(() => () => stream.destroy(), [stream]);
  return { stream, ...snapshot };
}

export { Stream, StreamError } from "./stream.js";
