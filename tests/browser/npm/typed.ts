// A user's code that must type-check, and lines that must not.

import { Stream, StreamError, type NamedEvent, type Snapshot, type Status } from "streamstores";
import { useStream } from "streamstores/react";
import { createStream } from "streamstores/svelte";

const stream = new Stream({
  endpoint: "/chat/stream",
  persist: "chat",
  storage: { getItem: () => null, setItem: () => {}, removeItem: () => {} },
  headers: async () => ({ Authorization: "Bearer token" }),
  onText: (piece) => console.log(piece.length),
  onEvent: ({ name, data, offset }: NamedEvent) => console.log(name, data, offset + 1),
  lookEvery: 0,
});

const unsubscribe: () => void = stream.subscribe(({ text, status, error }: Snapshot) => {
  const shown: Status = status;
  if (error instanceof StreamError) console.log(error.code, error.status, error.forgetsId);
  console.log(text.length, shown);
});
unsubscribe();

export async function ask(): Promise<string> {
  const { text } = await stream.send("Why?", { system: "Be brief.", messages: [] });
  const isStopped: boolean = await stream.stop();
  return isStopped ? text : stream.text;
}

export function useChat(): string {
  const { stream: own, text, canResume } = useStream({ endpoint: "/chat/stream" });
  if (canResume) void own.resume();
  return text;
}

export const store: Stream = createStream({ endpoint: "/chat/stream" });

// @ts-expect-error: an endpoint is needed
new Stream({});
// @ts-expect-error: no such status
export const wrong: Status = "paused";
// @ts-expect-error: the text is a string
export const size: number = stream.text;
// @ts-expect-error: no such option
useStream({ endpoint: "/chat/stream", retries: 3 });
// @ts-expect-error: the state is read-only
stream.status = "done";
