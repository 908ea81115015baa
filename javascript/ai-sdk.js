// A real Stop for the AI SDK's useChat. It needs no other module, and no version of `ai`.

/**
 * A `fetch` for `DefaultChatTransport` with which `stop()` stops the answer at the server.
 *
 *     useChat({ resume: true, transport: new DefaultChatTransport({ fetch: stoppingFetch() }) })
 *
 * Without it an abort is a lost connection, and the model goes on. With it an abort sends
 * `POST {api}/{chat}/stop` with the `X-Stream-Id` of the answer that is being read, so that it
 * cannot hit a later answer. A resume that another resume replaces stops nothing. On another
 * origin the server must expose that header, or the answer that runs then is stopped.
 *
 * @param {typeof globalThis.fetch} [fetch]
 * @returns {typeof globalThis.fetch}
 */
export function stoppingFetch(fetch = globalThis.fetch.bind(globalThis)) {
  /** @type {object | undefined} */
  let newest;
  return async (input, init = {}) => {
    const request = (newest = {});
    const { signal, ...options } = init;
    const reading = new AbortController();
    // Not aborted before there are headers, because they say what to stop.
    const response = await fetch(input, { ...options, signal: reading.signal });
    if (!response.ok || response.status === 204 || !signal) return response;

    const onAbort = () => {
      // A resume that takes the place of this one is requested right after the abort.
      setTimeout(async () => {
        const isReplaced = options.method === "GET" && newest !== request;
        try {
          if (!isReplaced) await postStop(fetch, String(input), options, response);
        } finally {
          reading.abort();
        }
      }, 0);
    };
    if (signal.aborted) onAbort();
    else signal.addEventListener("abort", onAbort, { once: true });
    return response;
  };
}

/**
 * @param {typeof globalThis.fetch} fetch
 * @param {string} url
 * @param {RequestInit} options
 * @param {Response} response
 */
async function postStop(fetch, url, options, response) {
  const streamId = response.headers.get("x-stream-id");
  const headers = new Headers(options.headers);
  headers.set("content-type", "application/json");
  await fetch(stopUrl(url, options), {
    method: "POST",
    headers,
    ...(options.credentials && { credentials: options.credentials }),
    body: JSON.stringify(streamId === null ? {} : { streamId }),
  });
}

/**
 * @param {string} url
 * @param {RequestInit} options
 */
function stopUrl(url, options) {
  const [, path, rest] = /** @type {RegExpMatchArray} */ (url.match(/^([^?#]*)(.*)$/s));
  if (options.method === "GET") return path.replace(/\/stream\/?$/, "/stop") + rest;
  const chat = JSON.parse(String(options.body)).id;
  return `${path.replace(/\/$/, "")}/${encodeURIComponent(chat)}/stop${rest}`;
}
