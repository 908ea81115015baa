// The protocol's own JavaScript client against our server; prints what it got.
import { pathToFileURL } from "node:url";

const [folder, url] = process.argv.slice(2);
const entry = "node_modules/@durable-streams/client/dist/index.js";
const { DurableStream, IdempotentProducer, stream } = await import(
  pathToFileURL(`${folder}/${entry}`).href
);

async function follow(target, live) {
  const items = [];
  const response = await stream({ url: target, offset: "-1", live });
  response.subscribeJson(async (batch) => void items.push(...batch.items));
  await response.closed;
  return items;
}

const json = await DurableStream.create({ url: `${url}/json`, contentType: "application/json" });
const followers = [follow(json.url, "sse"), follow(json.url, "long-poll")];
const errors = [];
const producer = new IdempotentProducer(json, "writer", {
  maxBatchBytes: 200, // many requests, five of them in flight
  onError: (error) => errors.push(String(error)),
});
for (let n = 0; n < 300; n++) producer.append(JSON.stringify({ n }));
await producer.flush();
await producer.close();

const text = await DurableStream.create({ url: `${url}/text`, contentType: "text/plain" });
await text.append("one ");
await text.appendStream((async function* () {
  for (const word of ["two ", "three ", "\u{1f600}"]) yield word;
})());
const head = await text.head();
await text.close({ body: "." });
const whole = await (await stream({ url: text.url, offset: "-1", live: false })).text();
await text.delete();
const { exists } = await text.head();

const live = (await Promise.all(followers)).map((items) => items.map((item) => item.n));
console.log(JSON.stringify({ errors, live, whole, offset: head.offset, exists }));
