// The chat of the AI SDK's own guide, whose user messages survive a reload.
import { useChat } from "@ai-sdk/react";
import { DefaultChatTransport } from "ai";
import { createRoot } from "react-dom/client";
import { stoppingFetch } from "streamstores-ai-sdk";

const transport = new DefaultChatTransport({ fetch: stoppingFetch() });
const kept = JSON.parse(localStorage.getItem("messages") ?? "[]");

function Chat() {
  const { messages, sendMessage, stop, status } = useChat({
    id: "c",
    messages: kept,
    resume: true,
    transport,
  });
  const send = () => {
    const text = document.querySelector("input").value;
    const message = { id: `m${Date.now()}`, role: "user", parts: [{ type: "text", text }] };
    localStorage.setItem("messages", JSON.stringify([message]));
    sendMessage(message);
  };
  const answers = messages.filter((message) => message.role === "assistant");
  const text = answers.at(-1)?.parts.map((part) => part.text ?? "").join("") ?? "";
  return (
    <>
      <input aria-label="Question" />
      <button onClick={send}>Send</button>
      <button onClick={() => stop()}>Stop</button>
      <p role="status">{status}</p>
      <output>{text}</output>
      <p id="count">{answers.length}</p>
    </>
  );
}

createRoot(document.getElementById("app")).render(<Chat />);
