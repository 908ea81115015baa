import { StrictMode } from "react";
import { createRoot } from "react-dom/client";
import { useStream } from "streamstores/react";

function Chat() {
  const { stream, text, status } = useStream({
    endpoint: "/plain/stream",
    persist: "react",
    backoff: 20,
  });
  return (
    <>
      <button onClick={() => stream.send(window.question)}>Send</button>
      <p role="status">{status}</p>
      <output>{text}</output>
    </>
  );
}

createRoot(document.getElementById("app")).render(
  <StrictMode>
    <Chat />
  </StrictMode>,
);
