// One use of `@langchain/langgraph-sdk`: it streams a new run, or joins `--run` after `--last`. It
// prints what came, as JSON, at the end or after `--until` words.
import { parseArgs } from "node:util";
import { Client } from "@langchain/langgraph-sdk";

const text = { type: "string" };
const options = { url: text, graph: text, prompt: text, run: text, last: text, until: text };
const { values } = parseArgs({ options });

const client = new Client({ apiUrl: values.url, apiKey: "alice" });
const streamMode = ["custom", "values"];
let runId = values.run;
const parts = runId
  ? client.runs.joinStream("t", runId, { lastEventId: values.last, streamMode })
  : client.runs.stream("t", values.graph, {
      input: { prompt: values.prompt },
      streamMode,
      onRunCreated: (run) => void (runId = run.run_id),
    });

const found = { words: [], ids: [], ending: null };
for await (const part of parts) {
  if (part.event === "custom") found.words.push(part.data.word);
  if (part.id) found.ids.push(part.id);
  found.ending = part.event;
  if (found.words.length === Number(values.until)) break;
}
console.log(JSON.stringify({ runId, ...found }));
process.exit(); // as a tab that is closed
