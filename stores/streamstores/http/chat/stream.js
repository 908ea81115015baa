/**
 * The JavaScript client of `streamstores.http`: one ES module, no build step, no dependency.
 *
 *     import { Stream } from "./chat/stream.js";
 *
 *     const stream = new Stream({ endpoint: "./chat/stream", persist: "chat" });
 *     stream.subscribe(({ text, status }) => { output.textContent = text; });
 *     stream.send("Why is the sky blue?");
 *
 * A stream is text that a server keeps while a model writes it. The client reads it, notices
 * when the connection breaks, and goes on at the byte where it broke, so that nothing is lost
 * and nothing is shown twice. `docs/wire.md` describes the wire, `docs/javascript.md` this class.
 *
 *     idle ─► streaming ─► done | stopped | error
 *                 │  ▲
 *                 ▼  │
 *            reconnecting ─► disconnected
 *
 * While the first request of a `send` waits for its answer the status is `streaming`; while any
 * later request waits, it is `reconnecting`. `stopped` and `disconnected` can be resumed, and
 * while something is subscribed they are watched: a stream that is continued elsewhere, or
 * whose server comes back, is read on. `error` and `done` are final.
 *
 * @module
 */

/**
 * @typedef {"idle" | "streaming" | "reconnecting" | "stopped" | "disconnected" | "done"
 *   | "error"} Status
 */

/**
 * The state of a stream at one moment. Frozen; every change makes a new object.
 *
 * @typedef {object} Snapshot
 * @property {Status} status
 * @property {string} text  All text that has arrived, exactly as it was written.
 * @property {boolean} loading  `streaming` or `reconnecting`: more may arrive without a call.
 * @property {boolean} canResume  `stopped` or `disconnected`, and kept by the server: `resume()`
 *   asks for more.
 * @property {boolean} stopping  A `stop()` is on its way to the server.
 * @property {string | null} streamId
 * @property {number} offset  Bytes read of those that the server keeps, named events included.
 * @property {Error | null} error  The reason for `error` or `disconnected`, or why `stop()` failed.
 */

/**
 * A named event, which the model function yielded as `Event(name, data)`.
 *
 * @typedef {object} NamedEvent
 * @property {string} name  `usage`, `tool_call`, …
 * @property {string} data  As it was sent; usually JSON.
 * @property {number} offset  The byte offset after the event. No event is reported twice.
 */

/**
 * @typedef {object} Options
 * @property {string} endpoint  Where the handler is: `{mount}/stream`.
 * @property {string} [id]  A stream to follow from the first `subscribe` on.
 * @property {string} [persist]  The storage key of the stream's id. After a reload the first
 *   `subscribe` follows that stream again.
 * @property {Pick<Storage, "getItem" | "setItem" | "removeItem">} [storage]  Default:
 *   `sessionStorage`, which belongs to one tab.
 * @property {string} [model]
 * @property {string} [system]
 * @property {string} [sessionId]
 * @property {HeadersInit | (() => HeadersInit | Promise<HeadersInit>)} [headers]  Sent with every
 *   request; a function is called for each.
 * @property {typeof globalThis.fetch} [fetch]
 * @property {number} [maxReconnects]  Attempts without progress before `disconnected`. Default 3.
 * @property {number} [backoff]  Milliseconds before the first reconnect; doubled for each further
 *   one, up to half a minute. Default 1000.
 * @property {number} [lookEvery]  Milliseconds between looks at a stream that is stopped or
 *   disconnected, growing tenfold; 0 looks only when the page becomes visible. Default 3000.
 * @property {(piece: string) => void} [onText]  Each piece of text, in order.
 * @property {(event: NamedEvent) => void} [onEvent]
 */

/**
 * @typedef {object} SendOptions
 * @property {string} [id]  The id of the new stream. Default: a random one.
 * @property {string} [model]
 * @property {string} [system]
 * @property {unknown[]} [messages]
 */

/** @typedef {Omit<Snapshot, "loading" | "canResume">} State */

/** @typedef {{ state?: unknown, tail?: unknown, error?: unknown }} StreamStatus */

/** @typedef {ReturnType<typeof setTimeout>} Timer */

/** @typedef {{ name: string, data: string, id: string | null }} ServerSentEvent */

const DEFAULT_PING_SECONDS = 15;
const SILENT_PINGS = 3;
const DRAIN_MS = 1_000;
const STOP_GRACE_MS = 3_000;
const REQUEST_TIMEOUT_MS = 30_000; // until the headers of an answer are here
const LONGEST_PAUSE_MS = 30_000;
const LONGEST_RETRY_AFTER_MS = 60_000;
const LOOK_MS = 3_000;
const LONGEST_LOOK_FACTOR = 10;
const LONGEST_TIMER_MS = 2 ** 31 - 1; // a longer one would fire at once
const FIELD_SEPARATOR = ":";

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
  constructor(message, { code, status = 0, retryAfter = 0, cause }) {
    super(message, { cause });
    this.name = "StreamError";
    /** @readonly */
    this.code = code;
    /** The HTTP status; 0 if there is none. @readonly */
    this.status = status;
    /** The pause in milliseconds that the server asks for. @readonly */
    this.retryAfter = retryAfter;
  }

  /** Whether the same request may succeed later. */
  get retryable() {
    const { code, status } = this;
    if (code === "not_kept" || code === "stream_error") return false;
    return status >= 500 || [0, 408, 425, 429].includes(status);
  }

  /**
   * Whether the server refused the stream itself, so that a stored id is of no use. After a
   * login (401, 407) the id is good again, and 416 leaves the stream readable from its start.
   */
  get forgetsId() {
    const { status } = this;
    return status >= 400 && !this.retryable && ![401, 407, 416].includes(status);
  }

  /** Whether the server says that nothing happened, so that the request may be repeated. */
  get refused() {
    return this.status === 503 || this.status === 429;
  }
}

/**
 * Parses server-sent events as the HTML standard says, from chunks of bytes.
 *
 * Lines end with LF, CR or CR LF and nothing else. A chunk may end anywhere, even inside a
 * character or a CR LF. The time is linear in the bytes, however they are cut. An event without
 * an `id:` has the id null; `EventSource` would give it the id of the event before.
 */
export class EventParser {
  #decoder = new TextDecoder(); // drops a BOM, and holds back half a character
  /** @type {string[]} */
  #line = [];
  /** @type {string[]} */
  #data = [];
  #name = "";
  /** @type {string | null} */
  #id = null;
  #afterCr = false;

  /**
   * The events that this chunk completes.
   * @param {Uint8Array} chunk
   * @returns {ServerSentEvent[]}
   */
  push(chunk) {
    /** @type {ServerSentEvent[]} */
    const events = [];
    const text = this.#decoder.decode(chunk, { stream: true });
    if (text === "") return events;
    let start = this.#afterCr && text[0] === "\n" ? 1 : 0;
    const lineEnd = /\r\n?|\n/g;
    lineEnd.lastIndex = start;
    for (let match = lineEnd.exec(text); match; match = lineEnd.exec(text)) {
      this.#line.push(text.slice(start, match.index));
      start = lineEnd.lastIndex;
      this.#endLine(events);
    }
    this.#afterCr = text.endsWith("\r");
    if (start < text.length) this.#line.push(text.slice(start));
    return events;
  }

  /** @param {ServerSentEvent[]} events */
  #endLine(events) {
    const line = this.#line.length === 1 ? this.#line[0] : this.#line.join("");
    this.#line = [];
    if (line === "") {
      this.#dispatch(events);
      return;
    }
    const colon = line.indexOf(FIELD_SEPARATOR);
    if (colon === -1) this.#take(line, "");
    else
      this.#take(line.slice(0, colon), line.slice(colon + (line[colon + 1] === " " ? 2 : 1)));
  }

  /**
   * @param {string} field  Empty for a comment.
   * @param {string} value
   */
  #take(field, value) {
    if (field === "data") this.#data.push(value);
    else if (field === "event") this.#name = value;
    else if (field === "id" && !value.includes("\0")) this.#id = value;
  }

  /** @param {ServerSentEvent[]} events */
  #dispatch(events) {
    if (this.#data.length > 0) {
      events.push({ name: this.#name, data: this.#data.join("\n"), id: this.#id });
    }
    this.#data = [];
    this.#name = "";
    this.#id = null;
  }
}

/** Reads one stream, over one connection after another. */
class StreamReader {
  /** The server has answered with this stream. */
  answered = false;
  /** Whether the server keeps the stream; null until its answer shows it. @type {boolean | null} */
  isKept = null;
  /** The user has pressed Stop, so a lost `send` must not be repeated. */
  unwanted = false;
  /** Reconnects since the last progress. */
  reconnects = 0;
  /** Looks at the stream at rest since the last progress. */
  looks = 0;
  /** The connection was given up on purpose, so the next attempt needs no pause. */
  reopening = false;
  silenceMs = REQUEST_TIMEOUT_MS;
  heardAt = 0;
  /** How the stream ends, once `done` confirms it. @type {Status} */
  ending = "done";
  /** @type {StreamError | null} */
  failure = null;
  /** Ends the pause before a reconnect. @type {(() => void) | null} */
  endPause = null;
  /** Once aborted, no more requests are made. @type {AbortController | null} */
  #life = null;
  /** @type {AbortController | null} */
  #connection = null;

  /**
   * @param {string} id
   * @param {"send" | "continue" | "follow"} request  The next request. Only a request of the
   *   user's may be `send` or `continue`, because these can start a model.
   * @param {object} [body]  The body of `send`.
   */
  constructor(id, request, body) {
    this.id = id;
    this.request = request;
    this.body = body;
    if (request !== "send") this.isKept = true;
  }

  /** @returns {AbortSignal} aborted by `finish` */
  begin() {
    this.#life = new AbortController();
    this.reconnects = 0;
    return this.#life.signal;
  }

  /** @returns {AbortController} aborted when it is given up */
  connect() {
    this.#connection = new AbortController();
    this.reopening = false;
    this.silenceMs = REQUEST_TIMEOUT_MS;
    this.heardAt = Date.now();
    this.ending = "done";
    this.failure = null;
    return this.#connection;
  }

  /** Replace the connection at once; if the server keeps nothing, it has to stay. */
  reopen() {
    if (this.isKept === false) return;
    if (this.endPause) {
      this.endPause();
      return;
    }
    this.reopening = true;
    this.#connection?.abort();
  }

  /** Make no more requests. The connection is closed, unless it has delivered everything. */
  finish({ complete = false } = {}) {
    this.#life?.abort();
    this.endPause?.();
    if (!complete) this.#connection?.abort();
  }

  /** Whether a ping is overdue. */
  get isSilent() {
    return Date.now() - this.heardAt >= this.silenceMs;
  }
}

/**
 * A stream of a model's text, and its state machine.
 *
 * The constructor only stores its options; nothing is requested before `subscribe` or `send`.
 * `subscribe` follows the Svelte store contract, and `subscribe` with `getSnapshot` fits React's
 * `useSyncExternalStore`. Subscribers are called at most once for each chunk from the network.
 */
export class Stream {
  /** @type {Options} */
  #options;
  /** @type {State} */
  #state = {
    status: "idle",
    text: "",
    stopping: false,
    streamId: null,
    offset: 0,
    error: null,
  };
  /** @type {Snapshot | null} */
  #snapshot = null;
  #told = true;
  /** @type {Set<(snapshot: Snapshot) => void>} */
  #subscribers = new Set();
  /** @type {Set<() => void>} */
  #waiters = new Set();
  /** @type {StreamReader | null} */
  #reader = null;
  /** @type {{ prompt: string, options: SendOptions } | null} */
  #lastSend = null;
  /** @type {Promise<boolean> | null} */
  #stop = null;
  /** Removes the listeners for wake-ups. @type {(() => void) | null} */
  #unlisten = null;
  /** Nothing has been sent or followed yet. */
  #isNew = true;
  /** `destroy()` closed the connection, and the next subscriber needs it again. */
  #suspended = false;
  /** No view is left, after `destroy()`. */
  #isDestroyed = false;
  /** The timer of the next look at a stream at rest. @type {Timer | null} */
  #lookTimer = null;

  /** @param {Options} options */
  constructor(options) {
    if (!options?.endpoint) throw new TypeError("Stream needs an endpoint");
    this.#options = options;
    this.getSnapshot = this.getSnapshot.bind(this);
    this.subscribe = this.subscribe.bind(this);
  }

  get status() {
    return this.#state.status;
  }

  get text() {
    return this.#state.text;
  }

  get loading() {
    return isLoading(this.#state.status);
  }

  get canResume() {
    return isResumable(this.#state.status) && this.#reader?.isKept !== false;
  }

  get stopping() {
    return this.#state.stopping;
  }

  get streamId() {
    return this.#state.streamId;
  }

  get offset() {
    return this.#state.offset;
  }

  get error() {
    return this.#state.error;
  }

  /**
   * The state now; the same object until something changes. Bound to this object.
   * @returns {Snapshot}
   */
  getSnapshot() {
    this.#snapshot ??= Object.freeze({
      ...this.#state,
      loading: this.loading,
      canResume: this.canResume,
    });
    return this.#snapshot;
  }

  /**
   * Call `subscriber` now and after every change. Bound to this object.
   *
   * In a browser the first subscriber also starts following the stream that `id` or `persist`
   * names.
   * @param {(snapshot: Snapshot) => void} subscriber
   * @returns {() => void} ends the subscription
   */
  subscribe(subscriber) {
    /** @param {Snapshot} snapshot */
    const own = (snapshot) => subscriber(snapshot); // one function may subscribe twice
    if (this.#subscribers.size === 0) this.#revive();
    this.#subscribers.add(own);
    own(this.getSnapshot());
    this.#scheduleLook();
    return () => {
      this.#subscribers.delete(own);
      this.#scheduleLook();
    };
  }

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
  send(prompt, options = {}) {
    const { id = randomId(), ...fields } = options;
    const { model, system, sessionId } = this.#options;
    this.#lastSend = { prompt, options: fields };
    this.#remember(id);
    const body = { model, system, sessionId, ...fields, prompt, id };
    return this.#begin(new StreamReader(id, "send", body), "streaming");
  }

  /**
   * Read a stream from its start, without changing it: a stopped stream stays stopped.
   * @param {string} [id]  Default: the id of the options, or the stored one.
   * @returns {Promise<Snapshot>} as `send` does; at once if there is no stream.
   */
  follow(id = this.#options.id ?? this.#recall()) {
    if (!id) return Promise.resolve(this.getSnapshot());
    this.#remember(id);
    return this.#begin(new StreamReader(id, "follow"), "reconnecting");
  }

  /**
   * The user's Continue. The model of a stopped stream goes on, a lost stream is reconnected,
   * and a pause before a reconnect ends. In any other state nothing happens.
   * @returns {Promise<Snapshot>} as `send` does
   */
  resume() {
    const reader = this.#reader;
    if (reader && this.canResume) {
      if (reader.answered || reader.request === "follow") reader.request = "continue";
      reader.unwanted = false;
      this.#restart(reader);
    } else if (reader?.endPause) {
      reader.reconnects = 0;
      reader.endPause();
    }
    return this.#settled(reader);
  }

  /**
   * Send the last prompt again, as a new stream. Without a prompt nothing happens.
   * @returns {Promise<Snapshot>} as `send` does
   */
  retry() {
    if (!this.#lastSend) return Promise.resolve(this.getSnapshot());
    return this.send(this.#lastSend.prompt, this.#lastSend.options);
  }

  /**
   * The user's Stop: the server saves what there is and halts the model.
   *
   * The status becomes `stopped` when the server has confirmed it and everything it saved is
   * here. Until then the model may be running, and the status stays as it was. If the server
   * keeps nothing, closing the connection halts the model.
   * @returns {Promise<boolean>} true: nothing runs any more. false: the server could not be
   *   reached or refused; `error` says why. Never rejects.
   */
  stop() {
    if (this.#stop) return this.#stop;
    const stop = this.#askToStop().finally(() => {
      if (this.#stop !== stop) return; // another stream has begun
      this.#stop = null;
      this.#set({ stopping: false });
    });
    this.#stop = stop;
    return stop;
  }

  /** Let go of the stream and forget its id. The server finishes it; the text here stays. */
  abort() {
    if (this.#reader && this.#isUnsettled) this.#dismiss();
  }

  /**
   * Close the connection and remove all listeners, for a view that goes away. The stream goes
   * on at the server and its id stays stored. The next `subscribe` reads on.
   */
  destroy() {
    this.#isDestroyed = true;
    this.#unlisten?.();
    this.#unlisten = null;
    this.#scheduleLook();
    if (this.#reader && this.loading) {
      this.#suspended = this.#reader.isKept !== false;
      this.#hangUp(this.#reader);
    }
  }

  // Reading ---------------------------------------------------------------------------

  /**
   * @param {StreamReader} reader
   * @param {Status} status
   */
  #begin(reader, status) {
    this.#reader?.finish();
    this.#reader = reader;
    this.#isNew = false;
    this.#stop = null;
    this.#set({
      status,
      text: "",
      offset: 0,
      streamId: reader.id,
      stopping: false,
      error: null,
    });
    return this.#run(reader);
  }

  /** @param {StreamReader} reader */
  #restart(reader) {
    this.#set({ status: "reconnecting", error: null });
    return this.#run(reader);
  }

  /**
   * Reconnect without a request of the user's, so without continuing a stopped stream.
   * @param {StreamReader} reader
   */
  #return(reader) {
    if (reader.request === "continue") reader.request = "follow";
    void this.#restart(reader);
  }

  /** @param {StreamReader} reader */
  #run(reader) {
    this.#suspended = false;
    this.#isDestroyed = false;
    this.#listen();
    void this.#keepReading(reader);
    return this.#settled(reader);
  }

  /**
   * Make one request after another, until the stream has ended or the attempts are used up.
   * @param {StreamReader} reader
   */
  async #keepReading(reader) {
    const life = reader.begin();
    while (!life.aborted) {
      const error = await this.#readOnce(reader);
      if (life.aborted || !error) return;
      if (reader.isKept === false) this.#end(reader, "error", notKept(error));
      else if (!error.retryable) this.#fail(reader, error);
      else if (reader.reopening) this.#set({ status: "reconnecting" });
      else if (reader.reconnects >= this.#maxReconnects) {
        this.#end(reader, "disconnected", error);
      } else {
        this.#set({ status: "reconnecting" });
        await pause(reader, this.#delay(reader.reconnects++, error));
      }
    }
  }

  /**
   * Make one request and read its answer.
   * @param {StreamReader} reader
   * @returns {Promise<StreamError | null>} null at the end of the stream, otherwise what ended
   *   the connection
   */
  async #readOnce(reader) {
    const connection = reader.connect();
    let silence = watchSilence(reader, connection);
    try {
      const response = await this.#open(reader, connection.signal);
      silence.end();
      silence = watchSilence(reader, connection); // the server has said how often it pings
      await this.#consume(response, reader, connection);
      return null;
    } catch (error) {
      connection.abort();
      return asStreamError(error);
    } finally {
      silence.end();
    }
  }

  /**
   * @param {StreamReader} reader
   * @param {AbortSignal} signal
   */
  async #open(reader, signal) {
    const asked = reader.request;
    try {
      const response = await this.#ask(reader, signal);
      signal.throwIfAborted();
      reader.silenceMs = pingSeconds(response) * SILENT_PINGS * 1_000;
      reader.heardAt = Date.now();
      reader.request = "follow";
      reader.answered = true;
      reader.isKept ??= showsKept(response);
      this.#set({ status: "streaming", error: null });
      return response;
    } catch (error) {
      // It may have been continued and then stopped elsewhere: do not continue it again.
      const refused = error instanceof StreamError && error.refused;
      if (asked === "continue" && !refused) reader.request = "follow";
      if (asked === "send" && reader.unwanted) reader.request = "follow";
      throw error;
    }
  }

  /**
   * @param {StreamReader} reader
   * @param {AbortSignal} signal
   */
  async #ask({ id, request, body, answered }, signal) {
    const after = this.#state.offset;
    const query = `id=${encodeURIComponent(id)}&after=${after}&mode=follow`;
    const response = await {
      send: () => this.#fetch("", { body, signal }),
      continue: () => this.#fetch("/resume", { body: { id, after }, signal }),
      follow: () => this.#fetch(`/resume?${query}`, { signal }),
    }[request]();
    // If a chat handler is known to be at this address, another type of answer comes from
    // something in between, such as a hotel's sign-in page, and a later attempt may succeed.
    checkType(response, "text/event-stream", answered || request !== "send");
    return response;
  }

  /**
   * Read a body up to `done`; a body that ends without it was cut.
   * @param {Response} response
   * @param {StreamReader} reader
   * @param {AbortController} connection
   */
  async #consume(response, reader, connection) {
    const body = /** @type {ReadableStream<Uint8Array>} */ (response.body);
    const source = body.getReader();
    const parser = new EventParser();
    for (;;) {
      const { done, value } = await source.read();
      if (done) throw new StreamError("the connection broke off", { code: "cut" });
      reader.heardAt = Date.now();
      for (const event of parser.push(value)) {
        connection.signal.throwIfAborted(); // a listener may have begun another stream
        if (this.#take(event, reader)) {
          void drain(source, connection);
          return;
        }
      }
      this.#notify();
    }
  }

  /**
   * Take one event; true for the last.
   * @param {ServerSentEvent} event
   * @param {StreamReader} reader
   */
  #take({ name, data, id }, reader) {
    if (name === "stream-id") {
      reader.isKept = true;
      this.#takeId(data, reader);
      return false;
    }
    reader.reconnects = 0;
    reader.looks = 0;
    if (name === "done") this.#complete(reader);
    else if (name === "stopped") reader.ending = "stopped";
    else if (name === "error") {
      reader.ending = "error";
      reader.failure = new StreamError(data, { code: "stream_error" });
    } else if (name !== "ping") this.#takeContent(name, data, id, reader);
    return name === "done";
  }

  /**
   * @param {string} id
   * @param {StreamReader} reader
   */
  #takeId(id, reader) {
    if (id === reader.id) return;
    reader.id = id;
    this.#change({ streamId: id });
    this.#remember(id);
  }

  /**
   * @param {string} name
   * @param {string} data
   * @param {string | null} id
   * @param {StreamReader} reader
   */
  #takeContent(name, data, id, reader) {
    const end = id === null ? NaN : Number(id);
    if (end <= this.#state.offset) return; // it has arrived before
    if (end > 0) this.#change({ offset: end });
    if (id !== null) reader.isKept = true;
    else if (!reader.isKept) {
      reader.isKept = false;
      if (this.#state.text === "") this.#forget(reader.id); // no server knows it later
    }
    if (name === "" || name === "text") {
      const piece = name === "text" ? textOfJson(data) : data;
      this.#change({ text: this.#state.text + piece });
      tell(this.#options.onText, piece);
    } else {
      tell(this.#options.onEvent, { name, data, offset: this.#state.offset });
    }
  }

  /** @param {StreamReader} reader */
  #complete(reader) {
    reader.finish({ complete: true });
    this.#set({ status: reader.ending, error: reader.failure });
  }

  /**
   * Stop reading, with `status` as the reason.
   * @param {StreamReader} reader
   * @param {Status} status
   * @param {StreamError | null} error
   */
  #end(reader, status, error) {
    reader.finish();
    this.#set({ status, error });
  }

  /**
   * Close the connection of a stream that has not ended. If the server keeps nothing, that
   * halts the model.
   * @param {StreamReader} reader
   */
  #hangUp(reader) {
    this.#end(reader, reader.isKept === false ? "stopped" : "disconnected", null);
  }

  /**
   * End a stream whose request was refused for good.
   * @param {StreamReader} reader
   * @param {StreamError} error
   */
  #fail(reader, error) {
    if (error.status === 404 && reader.unwanted && !reader.answered) {
      this.#dismiss(); // it was stopped before it had begun
      return;
    }
    if (error.forgetsId) this.#forget(reader.id);
    this.#end(reader, "error", error);
  }

  /** Let go of the stream and forget its id. */
  #dismiss() {
    const reader = /** @type {StreamReader} */ (this.#reader);
    this.#reader = null;
    this.#forget(reader.id);
    reader.finish();
    this.#set({ status: "idle", streamId: null, error: null });
  }

  /**
   * Milliseconds before the next attempt: doubled each time, up to a half left to chance, and at
   * least as long as the server asks.
   * @param {number} attempt
   * @param {StreamError} error
   */
  #delay(attempt, error) {
    const first = this.#options.backoff ?? 1_000;
    const doubled = Math.min(first * 2 ** attempt, Math.max(first, LONGEST_PAUSE_MS));
    const jittered = doubled * (0.5 + Math.random() / 2);
    return Math.min(Math.max(jittered, error.retryAfter), LONGEST_TIMER_MS);
  }

  /** Whether the server may have more, as far as this client knows. */
  get #isUnsettled() {
    return this.loading || this.status === "disconnected";
  }

  get #maxReconnects() {
    return this.#options.maxReconnects ?? 3;
  }

  // Stopping --------------------------------------------------------------------------

  async #askToStop() {
    const reader = this.#reader;
    if (!reader || !this.#isUnsettled) return true;
    reader.unwanted = true;
    if (reader.isKept === false) {
      this.#hangUp(reader);
      return true;
    }
    this.#set({ stopping: true, error: null });
    const answer = await this.#deliverStop(reader);
    if (reader !== this.#reader) return true;
    if (answer instanceof StreamError) {
      reader.unwanted = false;
      this.#set({ error: answer });
      return false;
    }
    if (!answer) return true;
    reader.answered = true; // a stream that was stopped exists
    await this.#awaitRest(reader, answer);
    return true;
  }

  /**
   * Ask the server to stop the stream, until it answers.
   * @param {StreamReader} reader
   * @returns {Promise<StreamStatus | StreamError | null>} the state of the stream; null if there is
   *   none, or no longer this one
   */
  async #deliverStop(reader) {
    for (let attempt = 0; reader === this.#reader;) {
      const wasThere = reader.answered;
      try {
        return await this.#postStop(reader);
      } catch (error) {
        const reason = asStreamError(error);
        if (reason.status === 404) {
          if (!wasThere && (await this.#hasBegun(reader))) continue;
          if (reader === this.#reader && this.#isUnsettled) this.#endUnknown(reader, reason);
          return null;
        }
        if (!reason.retryable || attempt >= this.#maxReconnects) return reason;
        await sleep(this.#delay(attempt++, reason));
      }
    }
    return null;
  }

  /**
   * @param {StreamReader} reader
   * @returns {Promise<StreamStatus>}
   */
  async #postStop({ id }) {
    const signal = AbortSignal.timeout(REQUEST_TIMEOUT_MS);
    // keepalive: the request arrives even if the user closes the page at this moment
    const response = await this.#fetch("/stop", { body: { id }, signal, keepalive: true });
    return jsonOf(response);
  }

  /**
   * End a stream that the server does not know. If it answered without an id, it keeps nothing,
   * and closing the connection halts the model.
   * @param {StreamReader} reader
   * @param {StreamError} reason
   */
  #endUnknown(reader, reason) {
    if (!reader.answered || reader.isKept) {
      this.#fail(reader, reason);
      return;
    }
    reader.isKept = false;
    this.#forget(reader.id);
    this.#hangUp(reader);
  }

  /**
   * Whether a stream that the server did not know was only on its way to it.
   * @param {StreamReader} reader
   */
  async #hasBegun(reader) {
    await this.#until(() => reader.answered || reader !== this.#reader || !this.loading);
    return reader.answered;
  }

  /**
   * Wait for the rest of a stopped stream. A connection that stays silent is replaced.
   * @param {StreamReader} reader
   * @param {StreamStatus} answer
   */
  async #awaitRest(reader, { state, tail, error }) {
    if (isEnd(state) && typeof tail === "number" && this.#state.offset >= tail) {
      const details = { code: "stream_error" };
      this.#end(
        reader,
        state,
        state === "error" ? new StreamError(`${error}`, details) : null,
      );
      return;
    }
    if (this.status === "disconnected") void this.#restart(reader);
    else reader.endPause?.();
    const timer = setTimeout(() => reader.reopen(), STOP_GRACE_MS);
    await this.#settled(reader);
    clearTimeout(timer);
  }

  // At rest ---------------------------------------------------------------------------

  /** Set, renew or clear the timer of the next look, as the state now demands. */
  #scheduleLook() {
    if (this.#lookTimer !== null) clearTimeout(this.#lookTimer);
    this.#lookTimer = null;
    const reader = this.#reader;
    const { lookEvery = LOOK_MS } = this.#options;
    const hasView = this.#subscribers.size > 0 && !this.#isDestroyed && isVisible();
    if (!reader || !this.canResume || !hasView || lookEvery <= 0) return;
    const factor = Math.min(1.5 ** reader.looks, LONGEST_LOOK_FACTOR);
    const timer = setTimeout(() => void this.#look(reader), lookEvery * factor);
    unref(timer);
    this.#lookTimer = timer;
  }

  /**
   * Ask for the state of a stream at rest, which costs one small request, and read on if it was
   * continued elsewhere or the server is back. Never continues a stream itself.
   * @param {StreamReader} reader
   */
  async #look(reader) {
    reader.looks += 1;
    const hasMoved = await this.#hasMoved(reader);
    if (reader !== this.#reader || !this.canResume || this.#isDestroyed) return;
    if (hasMoved) this.#return(reader);
    else if (hasMoved !== null) this.#scheduleLook();
  }

  /**
   * @param {StreamReader} reader
   * @returns {Promise<boolean | null>} null if looking again is of no use
   */
  async #hasMoved({ id }) {
    const signal = AbortSignal.timeout(REQUEST_TIMEOUT_MS);
    try {
      const response = await this.#fetch(`/status?id=${encodeURIComponent(id)}`, { signal });
      const { state, tail } = await jsonOf(response);
      const isAtRest = state === "stopped" && tail === this.#state.offset;
      return this.status === "disconnected" || !isAtRest;
    } catch (error) {
      if (asStreamError(error).retryable) return false;
      return this.status === "disconnected" ? true : null; // the server is back, with a refusal
    }
  }

  // Wake-ups --------------------------------------------------------------------------

  /** A first subscriber is here: read what `id`, the storage or `destroy()` left. */
  #revive() {
    this.#isDestroyed = false;
    if (typeof document === "undefined") return; // rendered on a server
    if (this.#suspended && this.#reader) this.#return(this.#reader);
    else if (this.#isNew) void this.follow();
    else this.#listen();
  }

  #listen() {
    if (this.#unlisten || typeof document === "undefined") return;
    const visible = () => {
      if (isVisible()) this.#wake(false);
      else this.#scheduleLook();
    };
    const online = () => this.#wake(true);
    /** @param {PageTransitionEvent} event */
    const shown = (event) => this.#wake(event.persisted);
    /** @param {PageTransitionEvent} event */
    const hidden = (event) => {
      // The back-forward cache does not keep a page with an open connection for long.
      if (event.persisted && this.loading && this.#reader) this.#hangUp(this.#reader);
    };
    document.addEventListener("visibilitychange", visible);
    document.addEventListener("resume", visible);
    window.addEventListener("online", online);
    window.addEventListener("pageshow", shown);
    window.addEventListener("pagehide", hidden);
    this.#unlisten = () => {
      document.removeEventListener("visibilitychange", visible);
      document.removeEventListener("resume", visible);
      window.removeEventListener("online", online);
      window.removeEventListener("pageshow", shown);
      window.removeEventListener("pagehide", hidden);
    };
  }

  /**
   * The page, the machine or the network is back: reconnect now, with all attempts again.
   * @param {boolean} reopen  A connection from before may be dead and is replaced.
   */
  #wake(reopen) {
    const reader = this.#reader;
    if (!reader) return;
    reader.looks = 0;
    if (this.status === "disconnected") this.#return(reader);
    else if (this.status === "stopped" && this.canResume) void this.#look(reader);
    else if (this.loading) {
      reader.reconnects = 0;
      if (reader.endPause || reopen || reader.isSilent) reader.reopen();
    }
  }

  // State -----------------------------------------------------------------------------

  /** @param {Partial<State>} changes */
  #set(changes) {
    this.#change(changes);
    this.#notify();
  }

  /** @param {Partial<State>} changes */
  #change(changes) {
    const names = /** @type {(keyof State)[]} */ (Object.keys(changes));
    if (names.every((name) => this.#state[name] === changes[name])) return;
    Object.assign(this.#state, changes);
    this.#snapshot = null;
    this.#told = false;
    if (changes.status) this.#scheduleLook();
  }

  #notify() {
    for (const check of [...this.#waiters]) check();
    if (this.#told) return;
    this.#told = true;
    const snapshot = this.getSnapshot();
    for (const subscriber of [...this.#subscribers]) tell(subscriber, snapshot);
  }

  /**
   * @param {() => boolean} condition
   * @returns {Promise<void>}
   */
  #until(condition) {
    return new Promise((resolve) => {
      const check = () => {
        if (!condition()) return;
        this.#waiters.delete(check);
        resolve();
      };
      this.#waiters.add(check);
      check();
    });
  }

  /** @param {StreamReader | null} reader */
  async #settled(reader) {
    await this.#until(() => this.#reader !== reader || !this.loading);
    return this.getSnapshot();
  }

  // The network and the storage ---------------------------------------------------------

  /**
   * @param {string} path
   * @param {{ body?: object, signal: AbortSignal, keepalive?: boolean }} request
   * @returns {Promise<Response>} a successful one; any other is thrown as a `StreamError`
   */
  async #fetch(path, { body, signal, keepalive }) {
    const { endpoint, headers, fetch = globalThis.fetch } = this.#options;
    const own = new Headers(typeof headers === "function" ? await headers() : headers);
    own.set("Accept", "text/event-stream; text=json, application/json");
    if (body) own.set("Content-Type", "application/json");
    const response = await fetch(endpoint + path, {
      method: body ? "POST" : "GET",
      headers: own,
      body: body && JSON.stringify(body),
      cache: "no-store",
      keepalive,
      signal,
    });
    if (!response.ok) throw await answeredError(response);
    return response;
  }

  get #storage() {
    try {
      return this.#options.storage ?? globalThis.sessionStorage ?? null;
    } catch {
      return null; // a sandboxed frame
    }
  }

  /** @param {string} id */
  #remember(id) {
    const { persist } = this.#options;
    try {
      if (persist) this.#storage?.setItem(persist, id);
    } catch {
      // Full or forbidden: the stream works, but a reload will not find it.
    }
  }

  /** @returns {string | undefined} the stored id */
  #recall() {
    const { persist } = this.#options;
    try {
      const id = persist && this.#storage?.getItem(persist);
      return typeof id === "string" && id !== "" ? id : undefined;
    } catch {
      return undefined;
    }
  }

  /** @param {string} id */
  #forget(id) {
    const { persist } = this.#options;
    if (!persist || this.#recall() !== id) return;
    try {
      this.#storage?.removeItem(persist);
    } catch {
      // Forbidden: the id is tried again after a reload.
    }
  }
}

/** Whether the page is on screen; true without a page. */
function isVisible() {
  return typeof document === "undefined" || document.visibilityState === "visible";
}

/**
 * Let a program end although a timer is set; browsers have no such thing.
 *
 * @param {unknown} timer
 */
function unref(timer) {
  /** @type {{ unref?: () => void }} */ (timer).unref?.();
}

/**
 * Whether an answer shows that the server keeps the stream. Across origins the header may be
 * hidden; then the first event tells.
 *
 * @param {Response} response
 */
function showsKept(response) {
  if (response.headers.has("X-Stream-Id")) return true;
  return response.type === "cors" ? null : false;
}

/**
 * Seconds between the server's pings.
 *
 * @param {Response} response
 */
function pingSeconds(response) {
  const seconds = Number(response.headers.get("X-Stream-Ping"));
  return seconds > 0 && Number.isFinite(seconds) ? seconds : DEFAULT_PING_SECONDS;
}

/**
 * The text of an event `text`, which is a JSON string.
 *
 * @param {string} data
 * @returns {string}
 */
function textOfJson(data) {
  const text = JSON.parse(data);
  if (typeof text !== "string") throw new SyntaxError("an event `text` is not a JSON string");
  return text;
}

/** @param {StreamError} cause */
function notKept(cause) {
  const message = `the rest is lost, because this server keeps nothing: ${cause.message}`;
  return new StreamError(message, { code: "not_kept", cause });
}

/**
 * @param {Response} response
 * @param {string} expected
 * @param {boolean} retryable  Whether a later attempt may bring another answer.
 */
function checkType(response, expected, retryable) {
  const type = (response.headers.get("Content-Type") ?? "no content type").toLowerCase();
  if (type.startsWith(expected) && response.body) return;
  const details = { code: "bad_answer", status: retryable ? 0 : response.status };
  throw new StreamError(`the server answered ${type}, not ${expected}`, details);
}

/**
 * @param {Response} response
 * @returns {Promise<StreamStatus>}
 */
async function jsonOf(response) {
  checkType(response, "application/json", true);
  return response.json();
}

/** @param {Status} status */
function isLoading(status) {
  return status === "streaming" || status === "reconnecting";
}

/** @param {Status} status */
function isResumable(status) {
  return status === "stopped" || status === "disconnected";
}

/**
 * @param {unknown} state
 * @returns {state is "stopped" | "done" | "error"}
 */
function isEnd(state) {
  return state === "stopped" || state === "done" || state === "error";
}

/**
 * Abort the connection when nothing has been heard for too long. The wall clock, unlike a
 * monotonic one, counts the time that a laptop sleeps; setting it costs at most a reconnect.
 *
 * @param {StreamReader} reader
 * @param {AbortController} connection
 */
function watchSilence(reader, connection) {
  const check = () => {
    if (reader.isSilent) {
      const message = `nothing heard for ${reader.silenceMs / 1_000} seconds`;
      connection.abort(new StreamError(message, { code: "silent" }));
    } else {
      const left = reader.silenceMs - (Date.now() - reader.heardAt);
      timer = setTimeout(check, Math.min(left, reader.silenceMs, LONGEST_TIMER_MS));
    }
  };
  let timer = setTimeout(check, Math.min(reader.silenceMs, LONGEST_TIMER_MS));
  return { end: () => clearTimeout(timer) };
}

/**
 * @param {unknown} error
 * @returns {StreamError}
 */
function asStreamError(error) {
  if (error instanceof StreamError) return error;
  if (error instanceof SyntaxError) {
    return new StreamError(error.message, { code: "bad_answer", status: 200, cause: error });
  }
  if (error instanceof URIError) {
    // A lone surrogate in the id. No address can carry it, as little as a server would take it.
    return new StreamError("not a stream id", { code: "invalid_id", status: 400, cause: error });
  }
  const message = error instanceof Error ? error.message : String(error);
  return new StreamError(message, { code: "network", cause: error });
}

/**
 * @param {Response} response
 * @returns {Promise<StreamError>}
 */
async function answeredError(response) {
  const { status } = response;
  /** @type {{ error?: unknown, code?: unknown }} */
  const answer = await response.json().catch(() => ({}));
  return new StreamError(String(answer?.error ?? `the server answered ${status}`), {
    code: String(answer?.code ?? "http_error"),
    status,
    retryAfter: retryAfterMs(response.headers.get("Retry-After")),
  });
}

/**
 * The pause that a Retry-After asks for, up to a minute: a clock that is behind would turn a
 * date into hours.
 *
 * @param {string | null} value  Seconds, or a date.
 * @returns {number} milliseconds from now
 */
function retryAfterMs(value) {
  if (!value) return 0;
  const isSeconds = /^\d+$/.test(value);
  const wait = isSeconds ? Number(value) * 1_000 : Date.parse(value) - Date.now();
  return wait > 0 ? Math.min(wait, LONGEST_RETRY_AFTER_MS) : 0;
}

/**
 * Call a function of the user's. If it throws, the error is reported and the stream goes on.
 *
 * @template T
 * @param {((value: T) => void) | undefined} listener
 * @param {T} value
 */
function tell(listener, value) {
  try {
    listener?.(value);
  } catch (error) {
    (globalThis.reportError ?? console.error)(error);
  }
}

/**
 * @param {StreamReader} reader
 * @param {number} delayMs
 * @returns {Promise<void>} resolved when the time is over or `endPause` is called
 */
function pause(reader, delayMs) {
  return new Promise((resolve) => {
    const timer = setTimeout(() => reader.endPause?.(), delayMs);
    reader.endPause = () => {
      clearTimeout(timer);
      reader.endPause = null;
      resolve();
    };
  });
}

/**
 * Read what follows `done`, which is the end of the body, so that the connection can be used
 * again. A connection whose body does not end soon is closed.
 *
 * @param {ReadableStreamDefaultReader<Uint8Array>} source
 * @param {AbortController} connection
 */
async function drain(source, connection) {
  const timer = setTimeout(() => connection.abort(), DRAIN_MS);
  try {
    while (!(await source.read()).done);
  } catch {
    // Everything has arrived.
  } finally {
    clearTimeout(timer);
  }
}

/** @param {number} ms */
function sleep(ms) {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

/** 122 random bits, because an id gives access to its stream. */
function randomId() {
  if (crypto.randomUUID) return crypto.randomUUID();
  const bytes = crypto.getRandomValues(new Uint8Array(16)); // for a page without https
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
