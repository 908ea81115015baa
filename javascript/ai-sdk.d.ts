/**
 * A `fetch` for `DefaultChatTransport` with which `stop()` stops the answer at the server.
 *
 *     useChat({ resume: true, transport: new DefaultChatTransport({ fetch: stoppingFetch() }) })
 *
 * Without it an abort is a lost connection, and the model goes on. With it an abort sends
 * `POST {api}/{chat}/stop` with the `X-Stream-Id` of the answer that is being read, so that it
 * cannot hit a later answer. A resume that another resume replaces stops nothing. On another
 * origin the server must expose that header, or the answer that runs then is stopped.
 */
export function stoppingFetch(fetch?: typeof globalThis.fetch): typeof globalThis.fetch;
