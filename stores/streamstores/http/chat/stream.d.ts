/**
 * Why a stream or a request failed. `code` is the server's, or `network`, `silent`, `cut` (the
 * connection), `bad_answer` (not the answer of a chat handler), `http_error` (a refusal without
 * a code), `stream_error` (the model failed), or `not_kept` (the connection broke, and this
 * handler keeps no answers to go on from).
 */
export class StreamError extends Error {
    /**
     * @param {string} message
     * @param {{ code: string, status?: number, retryAfter?: number, cause?: unknown }} details
     */
    constructor(message: string, { code, status, retryAfter, cause }: {
        code: string;
        status?: number;
        retryAfter?: number;
        cause?: unknown;
    });
    /** @readonly */
    readonly code: string;
    /** The HTTP status; 0 if there is none. @readonly */
    readonly status: number;
    /** The pause in milliseconds that the server asks for. @readonly */
    readonly retryAfter: number;
    /** Whether the same request may succeed later. */
    get retryable(): boolean;
    /**
     * Whether the server refused the stream itself, so that a stored id is of no use. After a
     * login (401, 407) the id is good again, and 416 leaves the stream readable from its start.
     */
    get forgetsId(): boolean;
    /** Whether the server says that nothing happened, so that the request may be repeated. */
    get refused(): boolean;
}
/**
 * Parses server-sent events as the HTML standard says, from chunks of bytes.
 *
 * Lines end with LF, CR or CR LF and nothing else. A chunk may end anywhere, even inside a
 * character or a CR LF. The time is linear in the bytes, however they are cut. An event without
 * an `id:` has the id null; `EventSource` would give it the id of the event before.
 */
export class EventParser {
    /**
     * The events that this chunk completes.
     * @param {Uint8Array} chunk
     * @returns {ServerSentEvent[]}
     */
    push(chunk: Uint8Array): ServerSentEvent[];
    #private;
}
/**
 * A stream of a model's text, and its state machine.
 *
 * The constructor only stores its options; nothing is requested before `subscribe` or `send`.
 * `subscribe` follows the Svelte store contract, and `subscribe` with `getSnapshot` fits React's
 * `useSyncExternalStore`. Subscribers are called at most once for each chunk from the network.
 */
export class Stream {
    /** @param {Options} options */
    constructor(options: Options);
    /**
     * The state now; the same object until something changes. Bound to this object.
     * @returns {Snapshot}
     */
    getSnapshot(): Snapshot;
    /**
     * Call `subscriber` now and after every change. Bound to this object.
     *
     * In a browser the first subscriber also starts following the stream that `id` or `persist`
     * names.
     * @param {(snapshot: Snapshot) => void} subscriber
     * @returns {() => void} ends the subscription
     */
    subscribe(subscriber: (snapshot: Snapshot) => void): () => void;
    get status(): Status;
    get text(): string;
    get loading(): boolean;
    get canResume(): boolean;
    get stopping(): boolean;
    get streamId(): string | null;
    get offset(): number;
    get error(): Error | null;
    /**
     * Start a stream. The previous one is left to the server, which finishes it.
     *
     * The id is made here. A request whose answer was lost is therefore repeated with the same
     * id, and attaches to the stream that the first one started.
     * @param {string} prompt
     * @param {SendOptions} [options]
     * @returns {Promise<Snapshot>} the state when the stream has ended or cannot be reached. Never
     *   rejects.
     */
    send(prompt: string, options?: SendOptions): Promise<Snapshot>;
    /**
     * Read a stream from its start, without changing it: a stopped stream stays stopped.
     * @param {string} [id]  Default: the id of the options, or the stored one.
     * @returns {Promise<Snapshot>} as `send` does; at once if there is no stream.
     */
    follow(id?: string): Promise<Snapshot>;
    /**
     * The user's Continue. The model of a stopped stream goes on, a lost stream is reconnected,
     * and a pause before a reconnect ends. In any other state nothing happens.
     * @returns {Promise<Snapshot>} as `send` does
     */
    resume(): Promise<Snapshot>;
    /**
     * Send the last prompt again, as a new stream. Without a prompt nothing happens.
     * @returns {Promise<Snapshot>} as `send` does
     */
    retry(): Promise<Snapshot>;
    /**
     * The user's Stop: the server saves what there is and halts the model.
     *
     * The status becomes `stopped` when the server has confirmed it and everything it saved is
     * here. Until then the model may be running, and the status stays as it was. If the server
     * keeps nothing, closing the connection halts the model.
     * @returns {Promise<boolean>} true: nothing runs any more. false: the server could not be
     *   reached or refused; `error` says why. Never rejects.
     */
    stop(): Promise<boolean>;
    /** Let go of the stream and forget its id. The server finishes it; the text here stays. */
    abort(): void;
    /**
     * Close the connection and remove all listeners, for a view that goes away. The stream goes
     * on at the server and its id stays stored. The next `subscribe` reads on.
     */
    destroy(): void;
    #private;
}
export type Status = "idle" | "streaming" | "reconnecting" | "stopped" | "disconnected" | "done" | "error";
/**
 * The state of a stream at one moment. Frozen; every change makes a new object.
 */
export type Snapshot = {
    status: Status;
    /**
     * All text that has arrived, exactly as it was written.
     */
    text: string;
    /**
     * `streaming` or `reconnecting`: more may arrive without a call.
     */
    loading: boolean;
    /**
     * `stopped` or `disconnected`, and kept by the server: `resume()`
     * asks for more.
     */
    canResume: boolean;
    /**
     * A `stop()` is on its way to the server.
     */
    stopping: boolean;
    streamId: string | null;
    /**
     * Bytes read of those that the server keeps, named events included.
     */
    offset: number;
    /**
     * The reason for `error` or `disconnected`, or why `stop()` failed.
     */
    error: Error | null;
};
/**
 * A named event, which the model function yielded as `Event(name, data)`.
 */
export type NamedEvent = {
    /**
     * `usage`, `tool_call`, …
     */
    name: string;
    /**
     * As it was sent; usually JSON.
     */
    data: string;
    /**
     * The byte offset after the event. No event is reported twice.
     */
    offset: number;
};
export type Options = {
    /**
     * Where the handler is: `{mount}/stream`.
     */
    endpoint: string;
    /**
     * A stream to follow from the first `subscribe` on.
     */
    id?: string | undefined;
    /**
     * The storage key of the stream's id. After a reload the first
     * `subscribe` follows that stream again.
     */
    persist?: string | undefined;
    /**
     * Default:
     * `sessionStorage`, which belongs to one tab.
     */
    storage?: Pick<Storage, "getItem" | "removeItem" | "setItem"> | undefined;
    model?: string | undefined;
    system?: string | undefined;
    sessionId?: string | undefined;
    /**
     * Sent with every
     * request; a function is called for each.
     */
    headers?: HeadersInit | (() => HeadersInit | Promise<HeadersInit>) | undefined;
    fetch?: typeof fetch | undefined;
    /**
     * Attempts without progress before `disconnected`. Default 3.
     */
    maxReconnects?: number | undefined;
    /**
     * Milliseconds before the first reconnect; doubled for each further
     * one, up to half a minute. Default 1000.
     */
    backoff?: number | undefined;
    /**
     * Milliseconds between looks at a stream that is stopped or
     * disconnected, growing tenfold; 0 looks only when the page becomes visible. Default 3000.
     */
    lookEvery?: number | undefined;
    /**
     * Each piece of text, in order.
     */
    onText?: ((piece: string) => void) | undefined;
    onEvent?: ((event: NamedEvent) => void) | undefined;
};
export type SendOptions = {
    /**
     * The id of the new stream. Default: a random one.
     */
    id?: string | undefined;
    model?: string | undefined;
    system?: string | undefined;
    messages?: unknown[] | undefined;
};
export type State = Omit<Snapshot, "loading" | "canResume">;
export type StreamStatus = {
    state?: unknown;
    tail?: unknown;
    error?: unknown;
};
export type Timer = ReturnType<typeof setTimeout>;
export type ServerSentEvent = {
    name: string;
    data: string;
    id: string | null;
};
