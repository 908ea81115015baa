// A `fetch` whose answers a test decides: the wire of the chat handler without a network.

/** One event as the handler writes it. */
export function event(name, data = "", id = undefined) {
  const lines = id === undefined ? [] : [`id: ${id}`];
  if (name) lines.push(`event: ${name}`);
  lines.push(...data.split("\n").map((line) => `data: ${line}`));
  return lines.join("\n") + "\n\n";
}

/** A request, and the means to answer it. */
class Exchange {
  constructor(label, request, settle) {
    this.label = label;
    this.request = request;
    this.settle = settle;
  }

  /** Answer as a chat handler that keeps the stream. */
  open(ping = 15) {
    this.#begin({ "X-Stream-Ping": ping, "X-Stream-Id": encodeURIComponent(this.request.id) });
    this.send(event("stream-id", this.request.id));
  }

  /** Answer as a chat handler with `resumable=False`. */
  openUnkept() {
    this.#begin({ "X-Stream-Ping": 15 });
  }

  #begin(ownHeaders) {
    const headers = { "Content-Type": "text/event-stream; charset=utf-8", ...ownHeaders };
    const body = new ReadableStream({ start: (controller) => (this.body = controller) });
    this.request.signal?.addEventListener("abort", () => this.cut());
    this.settle.resolve(new Response(body, { headers }));
  }

  send(...events) {
    for (const each of events) {
      this.body.enqueue(typeof each === "string" ? new TextEncoder().encode(each) : each);
    }
  }

  end() {
    this.body.close();
  }

  cut() {
    try {
      this.body.error(new TypeError("the connection broke"));
    } catch {
      // It had ended.
    }
  }

  fail() {
    this.settle.reject(new TypeError("no connection"));
  }

  answer(status, answer, headers = {}) {
    this.settle.resolve(Response.json(answer, { status, headers }));
  }

  refuse(status, code, headers) {
    this.answer(status, { error: `it is ${code}`, code }, headers);
  }
}

/** A server whose requests wait until the test takes and answers them. */
export class ScriptedServer {
  requests = [];
  #waiting = [];
  #arrived = () => {};

  fetch = (url, init = {}) => {
    const { pathname, searchParams } = new URL(url, "http://server.test");
    const mode = searchParams.get("mode");
    const label = `${init.method} ${pathname}${mode ? ` mode=${mode}` : ""}`;
    const body = init.body ? JSON.parse(init.body) : null;
    const request = {
      ...init,
      body,
      id: body?.id ?? searchParams.get("id"),
      after: body ? body.after : Number(searchParams.get("after")),
    };
    this.requests.push({ label, ...request });
    return new Promise((resolve, reject) => {
      init.signal?.addEventListener("abort", () => reject(init.signal.reason));
      this.#waiting.push(new Exchange(label, request, { resolve, reject }));
      this.#arrived();
    });
  };

  /** The oldest request that waits for an answer; wait for one if there is none. */
  async next(label) {
    while (!this.#waiting.length) await new Promise((resolve) => (this.#arrived = resolve));
    const exchange = this.#waiting.shift();
    if (label && exchange.label !== label) {
      throw new Error(`asked ${exchange.label}, not ${label}`);
    }
    return exchange;
  }

  /** Drop the waiting requests, which the client has left. */
  forget() {
    this.#waiting.length = 0;
  }

  get lastLabel() {
    return this.requests.at(-1)?.label;
  }

  get isAsked() {
    return this.#waiting.length > 0;
  }
}
