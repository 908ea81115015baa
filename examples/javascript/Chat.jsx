// React 18 and later. stream.js is a copy of what the handler serves at {mount}/stream.js.

import { useEffect, useState, useSyncExternalStore } from "react";

import { Stream } from "./stream.js";

/**
 * A stream, and what it shows now.
 * @param {import("./stream.js").Options} options  Those of the first rendering count.
 */
export function useStream(options) {
  const [stream] = useState(() => new Stream(options));
  const { subscribe, getSnapshot } = stream;
  const snapshot = useSyncExternalStore(subscribe, getSnapshot, getSnapshot);
  useEffect(() => () => stream.destroy(), [stream]);
  return { stream, ...snapshot };
}

export function Chat() {
  const [prompt, setPrompt] = useState("");
  const { stream, text, status, loading, canResume, error } = useStream({
    endpoint: "/chat/stream",
    persist: "chat",
  });

  function send(event) {
    event.preventDefault();
    stream.send(prompt);
    setPrompt("");
  }

  return (
    <>
      <form onSubmit={send}>
        <input
          aria-label="Prompt"
          value={prompt}
          onChange={(event) => setPrompt(event.target.value)}
          required
        />
        <button disabled={loading}>Send</button>
        <button type="button" onClick={() => stream.stop()} disabled={!loading}>
          Stop
        </button>
        <button type="button" onClick={() => stream.resume()} disabled={!canResume}>
          Continue
        </button>
      </form>
      <p role="status">
        {status} {error?.message}
      </p>
      <output style={{ whiteSpace: "pre-wrap" }}>{text}</output>
    </>
  );
}
