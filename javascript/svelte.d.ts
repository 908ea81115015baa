import { Options, Stream } from "./stream.js";

/**
 * A stream that lives as long as the component that calls this while it is initialised. It is a
 * Svelte store of its state: `$stream.text`.
 */
export function createStream(options: Options): Stream;

export { Stream, StreamError } from "./stream.js";
export type { NamedEvent, Options, SendOptions, Snapshot, Status } from "./stream.js";
