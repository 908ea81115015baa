// The reference server in memory, on a free port that it prints.
import { DurableStreamTestServer } from "@durable-streams/server";

const server = new DurableStreamTestServer({ port: 0, host: "127.0.0.1" });
console.log(new URL(await server.start()).port);
