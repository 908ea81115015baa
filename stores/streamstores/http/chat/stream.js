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
 * when the connection breaks, and goes on at the byte where it broke: nothing is lost, nothing
 * comes twice. The wire is described in `docs/wire.md`, this class in `docs/javascript.md`.
 *
 *     idle ─► streaming ─► done | stopped | error
 *                 │  ▲
 *                 ▼  │
 *            reconnecting ─► disconnected
 *
 * The first request of a `send` is `streaming`, every later one that awaits its answer is
 * `reconnecting`. `stopped` and `disconnected` can be resumed; `error` and `done` are final.
 *
 * @module
 */

/**
 * @typedef {"idle" | "streaming" | "reconnecting" | "stopped" | "disconnected" | "done"
 *   | "error"} Status
 */

/**
 * Everything one can see of a stream, at one moment. Frozen; a new object for every change.
 *
 * @typedef {object} Snapshot
 * @property {Status} status
 * @property {string} text  What has arrived, exactly as it was written.
 * @property {boolean} loading  `streaming` or `reconnecting`: more may come by itself.
 * @property {boolean} canResume  `stopped` or `disconnected`: `resume()` asks for more.
 * @property {boolean} stopping  A `stop()` is on its way to the server.
 * @property {string | null} streamId
 * @property {number} offset  Bytes read of what the server keeps; named events count too.
 * @property {Error | null} error  Why `error` or `disconnected`, or why a `stop()` failed.
 */

/**
 * A named event: what the model function yielded as `Event(name, data)`.
 *
 * @typedef {object} NamedEvent
 * @property {string} name  `usage`, `tool_call`, …
 * @property {string} data  As it was sent; usually JSON.
 * @property {number} offset  Where it ends in the stream. No event is reported twice.
 */

/**
 * @typedef {object} Options
 * @property {string} endpoint  Where the handler is: `{mount}/stream`.
 * @property {string} [id]  A stream to follow from the first `subscribe` on.
 * @property {string} [persist]  The storage key under which the id is kept, so that a reload
 *   follows the stream again, from the first `subscribe` on.
 * @property {Storage} [storage]  `sessionStorage` (one tab) unless given.
 * @property {string} [model]
 * @property {string} [system]
 * @property {string} [sessionId]
 * @property {HeadersInit | (() => HeadersInit | Promise<HeadersInit>)} [headers]  Sent with every
 *   request; a function is asked each time.
 * @property {typeof globalThis.fetch} [fetch]
 * @property {number} [maxReconnects]  Attempts without progress before `disconnected`: 3.
 * @property {number} [backoff]  Milliseconds before the first reconnect, then doubled: 1000.
 * @property {(piece: string) => void} [onText]  Each piece of text, in order.
 * @property {(event: NamedEvent) => void} [onEvent]
 */

/**
 * @typedef {object} SendOptions
 * @property {string} [id]  Instead of a random one.
 * @property {string} [model]
 * @property {string} [system]
 * @property {unknown[]} [messages]
 */

/** @typedef {Omit<Snapshot, "loading" | "canResume">} State */

/** @typedef {{ state?: unknown, tail?: unknown, error?: unknown }} StopAnswer */

/** @typedef {{ name: string, data: string, id: string | null }} ServerSentEvent */

const DEFAULT_PING_SECONDS = 15;
const SILENT_PINGS = 3;
const DRAIN_MS = 1_000;
const STOP_GRACE_MS = 3_000;
const LONGEST_TIMER_MS = 2 ** 31 - 1;
const FIELD_SEPARATOR = ":";

/** A request that failed: `code` is the server's, or `network`, `silent`, `cut`, `bad_answer`. */
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
    /** The HTTP status, 0 without one. @readonly */
    this.status = status;
    /** Milliseconds the server asks to wait. @readonly */
    this.retryAfter = retryAfter;
  }

  /** Whether the same request may succeed later. */
  get retryable() {
    const { status } = this;
    return status >= 500 || status === 429 || status === 408 || status === 0;
  }

  /** Whether the server says that it did nothing, so that a repeat does nothing twice. */
  get refused() {
    return this.status === 503 || this.status === 429;
  }
}

/**
 * Server-sent events from chunks of bytes, as the HTML standard parses them.
 *
 * Lines end with LF, CR or CR LF and nothing else; a chunk may end anywhere, inside a
 * character or a CR LF too. Linear in what is pushed, however it is cut. Unlike `EventSource`,
 * an event without an `id:` has the id null, not that of the event before.
 */
export class EventParser {
  #decoder = new TextDecoder(); // drops a BOM, and holds half a character back
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

/** One stream being read, over one connection after another. */
class Reading {
  /** The server has answered with this stream. */
  answered = false;
  /** The user wants it stopped: do not start it. */
  unwanted = false;
  /** Reconnects since the last progress. */
  reconnects = 0;
  /** The connection is being given up here, not lost: the next one is due at once. */
  reopening = false;
  silenceMs = DEFAULT_PING_SECONDS * SILENT_PINGS * 1_000;
  heardAt = 0;
  /** How the stream ends, once `done` confirms it. @type {Status} */
  ending = "done";
  /** @type {StreamError | null} */
  failure = null;
  /** Ends the pause before a reconnect. @type {(() => void) | null} */
  endPause = null;
  /** Aborted: no more requests. @type {AbortController | null} */
  #life = null;
  /** @type {AbortController | null} */
  #connection = null;

  /**
   * @param {string} id
   * @param {"send" | "continue" | "follow"} request  The next one to make; only what a user
   *   asked for may start a model or continue one.
   * @param {object} [body]  Of `send`.
   */
  constructor(id, request, body) {
    this.id = id;
    this.request = request;
    this.body = body;
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
    this.heardAt = Date.now();
    this.ending = "done";
    this.failure = null;
    return this.#connection;
  }

  /** Break the connection, to have a new one at once. */
  reopen() {
    if (this.endPause) {
      this.endPause();
      return;
    }
    this.reopening = true;
    this.#connection?.abort();
  }

  /** Ask for no more. The connection is broken, unless it has said all. */
  finish({ complete = false } = {}) {
    this.#life?.abort();
    this.endPause?.();
    if (!complete) this.#connection?.abort();
  }

  /** Whether the server owes a ping. */
  get isSilent() {
    return Date.now() - this.heardAt >= this.silenceMs;
  }
}

/**
 * A stream of a model's text, and its state machine.
 *
 * The constructor does nothing but remember its options. `subscribe` follows the Svelte store
 * contract, `subscribe` with `getSnapshot` fits React's `useSyncExternalStore`. Subscribers are
 * told at most once for each chunk that the network brings.
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
  /** @type {Reading | null} */
  #reading = null;
  /** @type {{ prompt: string, options: SendOptions } | null} */
  #lastSend = null;
  /** @type {Promise<boolean> | null} */
  #stop = null;
  /** Takes the listeners for wake-ups away again. @type {(() => void) | null} */
  #unlisten = null;
  /** Nothing was sent or followed yet. */
  #isNew = true;
  /** `destroy()` closed the connection; the next subscriber wants it back. */
  #suspended = false;

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
    return isResumable(this.#state.status);
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
   * The same object until something changes. Bound: it may be passed on by itself.
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
   * Call `subscriber` now and after every change. Bound: it may be passed on by itself.
   *
   * The first one, in a browser, also follows the stream that `id` or `persist` names.
   * @param {(snapshot: Snapshot) => void} subscriber
   * @returns {() => void} ends it
   */
  subscribe(subscriber) {
    /** @param {Snapshot} snapshot */
    const own = (snapshot) => subscriber(snapshot); // one function may subscribe twice
    if (this.#subscribers.size === 0) this.#revive();
    this.#subscribers.add(own);
    own(this.getSnapshot());
    return () => {
      this.#subscribers.delete(own);
    };
  }

  /**
   * Start a stream. The one before is let go of, and goes on at the server.
   *
   * The id is made here, so a request whose answer is lost can be repeated: it attaches to
   * the stream that the first one started.
   * @param {string} prompt
   * @param {SendOptions} [options]
   * @returns {Promise<Snapshot>} when the stream has ended, or cannot be reached. Never rejects.
   */
  send(prompt, options = {}) {
    const { id = randomId(), ...fields } = options;
    const { model, system, sessionId } = this.#options;
    this.#lastSend = { prompt, options: fields };
    this.#remember(id);
    const body = { model, system, sessionId, ...fields, prompt, id };
    return this.#begin(new Reading(id, "send", body), "streaming");
  }

  /**
   * Read a stream from its start, without changing it: one that is stopped stays so.
   * @param {string} [id]  The one of the options or of the storage, unless given.
   * @returns {Promise<Snapshot>} as `send` does; at once where there is no stream.
   */
  follow(id = this.#options.id ?? this.#recall()) {
    if (!id) return Promise.resolve(this.getSnapshot());
    this.#remember(id);
    return this.#begin(new Reading(id, "follow"), "reconnecting");
  }

  /**
   * The user's Continue: on a stopped stream the model goes on, a lost one is reconnected.
   * While reconnecting it ends the pause. Otherwise nothing happens.
   * @returns {Promise<Snapshot>} as `send` does
   */
  resume() {
    const reading = this.#reading;
    if (reading && this.canResume) {
      if (reading.answered || reading.request === "follow") reading.request = "continue";
      reading.unwanted = false;
      this.#restart(reading);
    } else if (reading?.endPause) {
      reading.reconnects = 0;
      reading.endPause();
    }
    return this.#settled(reading);
  }

  /**
   * Send the last prompt again, as a new stream. Without one nothing happens.
   * @returns {Promise<Snapshot>} as `send` does
   */
  retry() {
    if (!this.#lastSend) return Promise.resolve(this.getSnapshot());
    return this.send(this.#lastSend.prompt, this.#lastSend.options);
  }

  /**
   * The user's Stop: the server saves what there is and halts the model.
   *
   * The status becomes `stopped` when the server says so and all it saved is here. While it
   * cannot be told, the model may be running, and the status says what it said before.
   * @returns {Promise<boolean>} true: nothing runs any more; false: the server could not be told,
   *   `error` says why. Never rejects.
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

  /** Let go of the stream, which goes on at the server, and forget its id. The text stays. */
  abort() {
    if (this.#reading && this.#isUnsettled) this.#dismiss();
  }

  /**
   * Close the connection and remove all listeners, for a view that goes away. The stream goes
   * on at the server, its id stays stored; the next `subscribe` reads on.
   */
  destroy() {
    this.#unlisten?.();
    this.#unlisten = null;
    if (!this.#reading || !this.loading) return;
    this.#suspended = true;
    this.#end(this.#reading, "disconnected", null);
  }

  // Reading ---------------------------------------------------------------------------

  /**
   * @param {Reading} reading
   * @param {Status} status
   */
  #begin(reading, status) {
    this.#reading?.finish();
    this.#reading = reading;
    this.#isNew = false;
    this.#stop = null;
    this.#set({
      status,
      text: "",
      offset: 0,
      streamId: reading.id,
      stopping: false,
      error: null,
    });
    return this.#run(reading);
  }

  /** @param {Reading} reading */
  #restart(reading) {
    this.#set({ status: "reconnecting", error: null });
    return this.#run(reading);
  }

  /**
   * Reconnect without being asked to, so without continuing what is stopped.
   * @param {Reading} reading
   */
  #return(reading) {
    if (reading.request === "continue") reading.request = "follow";
    void this.#restart(reading);
  }

  /** @param {Reading} reading */
  #run(reading) {
    this.#suspended = false;
    this.#listen();
    void this.#keepReading(reading);
    return this.#settled(reading);
  }

  /**
   * Request after request, until the stream has ended or the budget is used up.
   * @param {Reading} reading
   */
  async #keepReading(reading) {
    const life = reading.begin();
    while (!life.aborted) {
      const error = await this.#readOnce(reading);
      if (life.aborted || !error) return;
      if (!error.retryable) this.#fail(reading, error);
      else if (reading.reopening) this.#set({ status: "reconnecting" });
      else if (reading.reconnects >= this.#maxReconnects) {
        this.#end(reading, "disconnected", error);
      } else {
        this.#set({ status: "reconnecting" });
        await pause(reading, this.#delay(reading.reconnects++, error));
      }
    }
  }

  /**
   * One request and its answer, to the end of the stream (null) or of the connection.
   * @param {Reading} reading
   * @returns {Promise<StreamError | null>}
   */
  async #readOnce(reading) {
    const connection = reading.connect();
    let silence = watchSilence(reading, connection);
    try {
      const response = await this.#open(reading, connection.signal);
      silence.end();
      silence = watchSilence(reading, connection); // the server has said how often it pings
      await this.#consume(response, reading, connection);
      return null;
    } catch (error) {
      connection.abort();
      return asStreamError(error);
    } finally {
      silence.end();
    }
  }

  /**
   * @param {Reading} reading
   * @param {AbortSignal} signal
   */
  async #open(reading, signal) {
    const asked = reading.request;
    try {
      const response = await this.#ask(reading, signal);
      signal.throwIfAborted();
      const ping = Number(response.headers.get("X-Stream-Ping")) || DEFAULT_PING_SECONDS;
      reading.silenceMs = ping * SILENT_PINGS * 1_000;
      reading.heardAt = Date.now();
      reading.request = "follow";
      reading.answered = true;
      this.#set({ status: "streaming", error: null });
      return response;
    } catch (error) {
      // Perhaps it continued and somebody has stopped it since: never continue unasked.
      const refused = error instanceof StreamError && error.refused;
      if (asked === "continue" && !refused) reading.request = "follow";
      if (asked === "send" && reading.unwanted) reading.request = "follow";
      throw error;
    }
  }

  /**
   * @param {Reading} reading
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
    const type = response.headers.get("Content-Type") ?? "no content type";
    if (!type.startsWith("text/event-stream") || !response.body) {
      // Where the handler has answered before, this is another: a hotel's sign-in page.
      const details = { code: "bad_answer", status: answered ? 0 : response.status };
      throw new StreamError(`the server answered ${type}, not an event stream`, details);
    }
    return response;
  }

  /**
   * Until `done`; a body that ends without it was cut.
   * @param {Response} response
   * @param {Reading} reading
   * @param {AbortController} connection
   */
  async #consume(response, reading, connection) {
    const body = /** @type {ReadableStream<Uint8Array>} */ (response.body);
    const reader = body.getReader();
    const parser = new EventParser();
    for (;;) {
      const { done, value } = await reader.read();
      if (done) throw new StreamError("the connection broke off", { code: "cut" });
      reading.heardAt = Date.now();
      for (const event of parser.push(value)) {
        connection.signal.throwIfAborted(); // a listener may have begun another stream
        if (this.#take(event, reading)) {
          void drain(reader, connection);
          return;
        }
      }
      this.#notify();
    }
  }

  /**
   * Take one event; true for the last.
   * @param {ServerSentEvent} event
   * @param {Reading} reading
   */
  #take({ name, data, id }, reading) {
    if (name === "stream-id") {
      this.#takeId(data, reading);
      return false;
    }
    reading.reconnects = 0;
    if (name === "done") this.#complete(reading);
    else if (name === "stopped") reading.ending = "stopped";
    else if (name === "error") {
      reading.ending = "error";
      reading.failure = new StreamError(data, { code: "stream_error" });
    } else if (name !== "ping") this.#takeContent(name, data, id);
    return name === "done";
  }

  /**
   * @param {string} id
   * @param {Reading} reading
   */
  #takeId(id, reading) {
    if (id === reading.id) return;
    reading.id = id;
    this.#change({ streamId: id });
    this.#remember(id);
  }

  /**
   * @param {string} name
   * @param {string} data
   * @param {string | null} id
   */
  #takeContent(name, data, id) {
    const end = id === null ? NaN : Number(id);
    if (end <= this.#state.offset) return; // had it
    if (end > 0) this.#change({ offset: end });
    if (name === "" || name === "text") {
      const piece = name === "text" ? String(JSON.parse(data)) : data;
      this.#change({ text: this.#state.text + piece });
      tell(this.#options.onText, piece);
    } else {
      tell(this.#options.onEvent, { name, data, offset: this.#state.offset });
    }
  }

  /** @param {Reading} reading */
  #complete(reading) {
    reading.finish({ complete: true });
    this.#set({ status: reading.ending, error: reading.failure });
  }

  /**
   * Read no more; `status` says why.
   * @param {Reading} reading
   * @param {Status} status
   * @param {StreamError | null} error
   */
  #end(reading, status, error) {
    reading.finish();
    this.#set({ status, error });
  }

  /**
   * A request was refused for good.
   * @param {Reading} reading
   * @param {StreamError} error
   */
  #fail(reading, error) {
    if (error.status === 404 && reading.unwanted && !reading.answered) {
      this.#dismiss(); // stopped before it had begun
      return;
    }
    if (error.status === 404) this.#forget(reading.id);
    this.#end(reading, "error", error);
  }

  #dismiss() {
    const reading = /** @type {Reading} */ (this.#reading);
    this.#reading = null;
    this.#forget(reading.id);
    reading.finish();
    this.#set({ status: "idle", streamId: null, error: null });
  }

  /**
   * Milliseconds to wait: doubled each time, half of it chance, and what the server asks for.
   * @param {number} attempt
   * @param {StreamError} error
   */
  #delay(attempt, error) {
    const backoff = (this.#options.backoff ?? 1_000) * 2 ** attempt;
    const jittered = backoff * (0.5 + Math.random() / 2);
    return Math.min(Math.max(jittered, error.retryAfter), LONGEST_TIMER_MS);
  }

  /** Whether the server may have more, as far as is known here. */
  get #isUnsettled() {
    return this.loading || this.status === "disconnected";
  }

  get #maxReconnects() {
    return this.#options.maxReconnects ?? 3;
  }

  // Stopping --------------------------------------------------------------------------

  async #askToStop() {
    const reading = this.#reading;
    if (!reading || !this.#isUnsettled) return true;
    reading.unwanted = true;
    this.#set({ stopping: true, error: null });
    const answer = await this.#deliverStop(reading);
    if (reading !== this.#reading) return true;
    if (answer instanceof StreamError) {
      reading.unwanted = false;
      this.#set({ error: answer });
      return false;
    }
    if (!answer) return true;
    reading.answered = true; // a stream that was stopped is there
    await this.#awaitRest(reading, answer);
    return true;
  }

  /**
   * Tell the server, until it knows: what the stream is then, null where there is none.
   * @param {Reading} reading
   * @returns {Promise<StopAnswer | StreamError | null>}
   */
  async #deliverStop(reading) {
    for (let attempt = 0; reading === this.#reading;) {
      const wasThere = reading.answered;
      try {
        return await this.#postStop(reading);
      } catch (error) {
        const reason = asStreamError(error);
        if (reason.status === 404) {
          if (!wasThere && (await this.#hasBegun(reading))) continue;
          if (reading === this.#reading && this.#isUnsettled) this.#fail(reading, reason);
          return null;
        }
        if (!reason.retryable || attempt >= this.#maxReconnects) return reason;
        await sleep(this.#delay(attempt++, reason));
      }
    }
    return null;
  }

  /**
   * @param {Reading} reading
   * @returns {Promise<StopAnswer>}
   */
  async #postStop({ id, silenceMs }) {
    const signal = AbortSignal.timeout(silenceMs);
    // keepalive: it arrives also where the user closes the page in the same moment
    const response = await this.#fetch("/stop", { body: { id }, signal, keepalive: true });
    return response.json().catch(() => ({}));
  }

  /**
   * Whether a stream that the server did not know was only on its way there.
   * @param {Reading} reading
   */
  async #hasBegun(reading) {
    await this.#until(() => reading.answered || reading !== this.#reading || !this.loading);
    return reading.answered;
  }

  /**
   * Wait for the rest of a stopped stream, over a new connection where the old one is silent.
   * @param {Reading} reading
   * @param {StopAnswer} answer
   */
  async #awaitRest(reading, { state, tail, error }) {
    if (isEnd(state) && typeof tail === "number" && this.#state.offset >= tail) {
      const details = { code: "stream_error" };
      this.#end(
        reading,
        state,
        state === "error" ? new StreamError(`${error}`, details) : null,
      );
      return;
    }
    if (this.status === "disconnected") void this.#restart(reading);
    else reading.endPause?.();
    const timer = setTimeout(() => reading.reopen(), STOP_GRACE_MS);
    await this.#settled(reading);
    clearTimeout(timer);
  }

  // Wake-ups --------------------------------------------------------------------------

  /** Somebody watches again: read what `id`, the storage or `destroy()` left. */
  #revive() {
    if (typeof document === "undefined") return; // a server renders this
    if (this.#suspended && this.#reading) this.#return(this.#reading);
    else if (this.#isNew) void this.follow();
    else this.#listen();
  }

  #listen() {
    if (this.#unlisten || typeof document === "undefined") return;
    const visible = () => {
      if (document.visibilityState === "visible") this.#wake(false);
    };
    const online = () => this.#wake(true);
    /** @param {PageTransitionEvent} event */
    const shown = (event) => this.#wake(event.persisted);
    /** @param {PageTransitionEvent} event */
    const hidden = (event) => {
      // The back-forward cache does not keep a page with an open connection for long.
      if (event.persisted && this.loading && this.#reading) {
        this.#end(this.#reading, "disconnected", null);
      }
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
   * The page, the machine or the network is back: reconnect now, with a new budget.
   * @param {boolean} reopen  A connection from before is not to be trusted.
   */
  #wake(reopen) {
    const reading = this.#reading;
    if (!reading) return;
    if (this.status === "disconnected") this.#return(reading);
    else if (this.loading) {
      reading.reconnects = 0;
      if (reading.endPause || reopen || reading.isSilent) reading.reopen();
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

  /** @param {Reading | null} reading */
  async #settled(reading) {
    await this.#until(() => this.#reading !== reading || !this.loading);
    return this.getSnapshot();
  }

  // The network and the storage ---------------------------------------------------------

  /**
   * @param {string} path
   * @param {{ body?: object, signal: AbortSignal, keepalive?: boolean }} request
   * @returns {Promise<Response>} of status 200; all else is thrown
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
      // Full or forbidden: the stream works, a reload does not find it.
    }
  }

  #recall() {
    const { persist } = this.#options;
    try {
      return (persist && this.#storage?.getItem(persist)) || undefined;
    } catch {
      return undefined;
    }
  }

  /** @param {string} id */
  #forget(id) {
    const { persist } = this.#options;
    if (persist && this.#recall() === id) this.#storage?.removeItem(persist);
  }
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
 * Abort the connection when nothing has been heard for too long. The wall clock counts a
 * laptop's sleep; where somebody sets it, that costs a reconnect.
 *
 * @param {Reading} reading
 * @param {AbortController} connection
 */
function watchSilence(reading, connection) {
  const check = () => {
    if (reading.isSilent) {
      const message = `nothing heard for ${reading.silenceMs / 1_000} seconds`;
      connection.abort(new StreamError(message, { code: "silent" }));
    } else {
      const left = reading.silenceMs - (Date.now() - reading.heardAt);
      timer = setTimeout(check, Math.min(left, reading.silenceMs, LONGEST_TIMER_MS));
    }
  };
  let timer = setTimeout(check, Math.min(reading.silenceMs, LONGEST_TIMER_MS));
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
    code: String(answer?.code ?? `http_${status}`),
    status,
    retryAfter: retryAfterMs(response.headers.get("Retry-After")),
  });
}

/**
 * @param {string | null} value  Seconds, or a date.
 * @returns {number} milliseconds from now
 */
function retryAfterMs(value) {
  if (!value) return 0;
  const seconds = Number(value);
  const wait = Number.isNaN(seconds) ? Date.parse(value) - Date.now() : seconds * 1_000;
  return wait > 0 ? wait : 0;
}

/**
 * Call what somebody else wrote: its error is theirs, and the stream goes on.
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
 * @param {Reading} reading
 * @param {number} delayMs
 * @returns {Promise<void>} when it is over, or `endPause` ends it
 */
function pause(reading, delayMs) {
  return new Promise((resolve) => {
    const timer = setTimeout(() => reading.endPause?.(), delayMs);
    reading.endPause = () => {
      clearTimeout(timer);
      reading.endPause = null;
      resolve();
    };
  });
}

/**
 * Read what follows `done`, which is the end of the body, so that the connection can be used
 * again; one that stays open is broken.
 *
 * @param {ReadableStreamDefaultReader<Uint8Array>} reader
 * @param {AbortController} connection
 */
async function drain(reader, connection) {
  const timer = setTimeout(() => connection.abort(), DRAIN_MS);
  try {
    while (!(await reader.read()).done);
  } catch {
    // Everything has been said.
  } finally {
    clearTimeout(timer);
  }
}

/** @param {number} ms */
function sleep(ms) {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

/** 122 random bits: an id opens the stream, so nobody may guess it. */
function randomId() {
  if (crypto.randomUUID) return crypto.randomUUID();
  const bytes = crypto.getRandomValues(new Uint8Array(16)); // a page without https
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
