// One use of `@tanstack/ai-client`: it sends a prompt, or joins `--run`. It prints what came, as
// JSON, at the end or after `--until` pieces.
import { parseArgs } from "node:util";
import { ChatClient, fetchServerSentEvents } from "@tanstack/ai-client";

const text = { type: "string" };
const { values } = parseArgs({ options: { url: text, prompt: text, run: text, until: text } });
const connection = fetchServerSentEvents(`${values.url}/agent?threadId=t`);

const found = { run: values.run, pieces: "", types: [], answer: null };
function take(chunk) {
  found.types.push(chunk.type);
  if (chunk.runId) found.run = chunk.runId;
  if (chunk.type === "TEXT_MESSAGE_CONTENT") found.pieces += chunk.delta;
  if (found.pieces.split(" ").length > Number(values.until)) end();
}
function end() {
  console.log(JSON.stringify(found));
  process.exit(); // as a tab that is closed
}

if (values.run) {
  for await (const chunk of connection.joinRun(values.run)) take(chunk);
} else {
  const client = new ChatClient({ connection, threadId: "t", onChunk: take });
  await client.sendMessage(values.prompt);
  const parts = client.getMessages().at(-1).parts;
  found.answer = parts.map((part) => part.content).join("|");
}
end();
