import { Options, Snapshot, Stream } from "./stream.js";

/**
 * A stream and its state now. The options of the first rendering count; to follow another
 * stream, give the component another `key`.
 */
export function useStream(options: Options): Snapshot & { stream: Stream };

export { Stream, StreamError } from "./stream.js";
export type { NamedEvent, Options, SendOptions, Snapshot, Status } from "./stream.js";
