// One run of `@ag-ui/client`. It prints `begun` after `--until` pieces of the answer, and what it
// has at the end, as JSON. With `--cut` it aborts then, which is what a closed tab does.
import { parseArgs } from "node:util";
import { HttpAgent } from "@ag-ui/client";

const text = { type: "string" };
const options = { url: text, thread: text, run: text, prompt: text, user: text, until: text };
const { values } = parseArgs({ options: { ...options, cut: { type: "boolean" } } });

const agent = new HttpAgent({
  url: values.url,
  threadId: values.thread,
  headers: { "x-user": values.user },
});
agent.addMessage({ id: "question", role: "user", content: values.prompt });

const types = [];
let pieces = 0;
let error = null;
const subscriber = {
  onEvent: ({ event }) => void types.push(event.type),
  onTextMessageContentEvent: () => {
    pieces += 1;
    if (pieces === Number(values.until)) {
      console.log("begun");
      if (values.cut) agent.abortRun();
    }
  },
  onRunErrorEvent: ({ event }) => void (error = event),
};
let failure = null;
try {
  await agent.runAgent({ runId: values.run }, subscriber);
} catch (exc) {
  failure = String(exc);
}
const answers = agent.messages.filter((message) => message.role === "assistant");
const answer = answers.map((message) => message.content).join("|");
console.log(JSON.stringify({ answer, types, error, failure, ids: answers.map((m) => m.id) }));
