// A chat of the AI SDK. The user's messages stay in the browser; the answers are at the server.
import { useChat } from "@ai-sdk/react";
import { DefaultChatTransport } from "ai";
import { createRoot } from "react-dom/client";
import { stoppingFetch } from "streamstores/ai-sdk";

// The address names the chat, so that another tab shows the same one.
location.hash ||= crypto.randomUUID();
const id = location.hash.slice(1);
const transport = new DefaultChatTransport({ fetch: stoppingFetch() });
const kept = JSON.parse(localStorage.getItem(id) ?? "[]");

function Chat() {
  const { messages, sendMessage, stop, status } = useChat({
    id,
    messages: kept,
    resume: true,
    transport,
  });
  const send = (event) => {
    event.preventDefault();
    const text = new FormData(event.target).get("question");
    const message = { id: `m${Date.now()}`, role: "user", parts: [{ type: "text", text }] };
    localStorage.setItem(id, JSON.stringify([message]));
    sendMessage(message);
  };
  const answers = messages.filter((message) => message.role === "assistant");
  return (
    <>
      <form onSubmit={send}>
        <input name="question" aria-label="Question" size="60" />
        <button>Send</button> <button type="button" onClick={() => stop()}>Stop</button>
      </form>
      <p role="status">{status}</p>
      {answers.map(({ id, parts }) => (
        <p key={id}>
          <output>{parts.map((part) => part.text ?? "").join("")}</output>
        </p>
      ))}
    </>
  );
}

createRoot(document.getElementById("app")).render(<Chat />);
