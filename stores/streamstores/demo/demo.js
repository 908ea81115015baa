// The demo page: a chat whose connection can be cut. No dependency, no build step.

import { Stream } from "./chat/stream.js";

const ENDPOINT = "./chat/stream";
const STORAGE_KEY = "streamstores-demo";
const MAX_TURNS = 30;
const MAX_HISTORY = 60;
const MAX_CONTEXT_CHARACTERS = 4_000; // of earlier turns, for the model
const LOOK_MS = 500;
const byId = (id) => document.getElementById(id);
const number = new Intl.NumberFormat("en");

// The line to the server, which the switch cuts --------------------------------------

const line = { cut: false, open: new Set(), received: 0, connections: 0 };

async function fetchOverLine(url, init) {
  if (line.cut) throw new TypeError("the connection is cut");
  const breaker = new AbortController();
  init.signal?.addEventListener("abort", () => breaker.abort(init.signal.reason));
  line.open.add(breaker);
  line.connections++;
  const response = await fetch(url, { ...init, signal: breaker.signal });
  if (!response.body) return response;
  const count = new TransformStream({
    transform(chunk, controller) {
      line.received += chunk.byteLength;
      controller.enqueue(chunk);
    },
    flush: () => void line.open.delete(breaker),
  });
  const { status, statusText, headers } = response;
  return new Response(response.body.pipeThrough(count), { status, statusText, headers });
}

function setCut(cut) {
  line.cut = cut;
  if (!cut) return;
  for (const breaker of line.open) breaker.abort(new TypeError("the connection is cut"));
  line.open.clear();
}

// The conversation ---------------------------------------------------------------------

/** A question and its answer. The stream carries both: the question is its first event. */
class Turn {
  #unsubscribe = null;

  constructor() {
    this.node = byId("turn").content.firstElementChild.cloneNode(true);
    this.answer = this.node.querySelector(".answer");
    this.question = "";
    this.status = "idle";
    this.streamId = null;
    this.tail = null; // what the server has, as far as this page knows
    this.stream = new Stream({
      endpoint: ENDPOINT,
      fetch: fetchOverLine,
      lookEvery: 1_000,
      onText: (piece) => this.answer.append(piece),
      onEvent: ({ name, data }) => name === "question" && this.ask(data),
    });
    byId("turns").append(this.node);
  }

  ask(question) {
    this.question = question;
    this.node.querySelector(".question").hidden = false;
    this.node.querySelector(".question p").textContent = question;
  }

  send(question, messages) {
    this.ask(question);
    this.answer.replaceChildren();
    this.tail = null;
    void this.stream.send(question, { messages });
    this.watch();
  }

  follow(id) {
    void this.stream.follow(id);
    this.watch();
  }

  watch() {
    this.#unsubscribe?.();
    this.#unsubscribe = this.stream.subscribe((snapshot) => show(this, snapshot));
  }

  /** Stop looking whether a stopped answer is continued elsewhere. */
  settle() {
    if (this.stream.loading) return;
    this.#unsubscribe?.();
    this.#unsubscribe = null;
  }

  remove() {
    this.stream.destroy();
    this.#unsubscribe?.();
    this.node.remove();
  }
}

/** @type {Turn[]} */
let turns = [];
const current = () => turns.at(-1);

function load(ids) {
  for (const turn of turns) turn.remove();
  turns = [];
  for (const id of ids.slice(-MAX_TURNS)) {
    const turn = new Turn();
    turns.push(turn);
    turn.follow(id);
  }
  remember();
  showControls();
  showBytes();
}

function send(question, turn = new Turn()) {
  byId("prompt").value = "";
  follows = true;
  line.received = line.connections = 0;
  const messages = contextOf(turns.filter((other) => other !== turn));
  for (const other of turns) if (other !== turn) other.settle();
  if (current() !== turn) turns.push(turn);
  turn.send(question, messages);
  if (location.hash) history.replaceState(null, "", location.pathname + location.search);
  remember();
  show(turn, turn.stream.getSnapshot());
}

/** The latest turns, as many as the model's context has room for. */
function contextOf(earlier) {
  const messages = [];
  let room = MAX_CONTEXT_CHARACTERS;
  for (const { question, stream } of [...earlier].reverse()) {
    room -= question.length + stream.text.length;
    if (room < 0) break;
    if (!question || !stream.text) continue;
    messages.unshift({ role: "assistant", content: stream.text });
    messages.unshift({ role: "user", content: question });
  }
  return messages;
}

const idsOf = () => turns.map(({ stream }) => stream.streamId).filter(Boolean);

function remember() {
  try {
    sessionStorage.setItem(STORAGE_KEY, JSON.stringify(idsOf()));
  } catch {
    // Full or forbidden: a reload starts an empty chat.
  }
}

function recall() {
  try {
    const ids = JSON.parse(sessionStorage.getItem(STORAGE_KEY) ?? "[]");
    return Array.isArray(ids) ? ids.filter((id) => typeof id === "string") : [];
  } catch {
    return [];
  }
}

function idsInHash() {
  try {
    return location.hash.slice(1).split(",").filter(Boolean).map(decodeURIComponent);
  } catch {
    return [];
  }
}

// What is shown ------------------------------------------------------------------------

function show(turn, snapshot) {
  turn.node.classList.toggle("loading", snapshot.loading);
  if (snapshot.streamId !== turn.streamId) turn.status = "idle"; // another answer has begun
  turn.streamId = snapshot.streamId;
  const before = turn.status;
  turn.status = snapshot.status;
  if (snapshot.status !== before) changeState(turn, before, snapshot);
  showNote(turn, snapshot);
  if (turn !== current()) return;
  showControls();
  showBytes();
}

function changeState(turn, before, { status, offset, error }) {
  const hasText = turn.answer.textContent !== "";
  const at = `at byte ${number.format(offset)}`;
  if (hasText && status === "stopped") seam(turn, "stopped", `stopped ${at}`);
  if (hasText && before === "streaming" && status === "reconnecting") {
    seam(turn, "cut", `cut ${at}`);
  }
  if (hasText && status === "streaming") seam(turn, "resumed", `resumed ${at}`);
  if (turn !== current()) return;
  record(status, status === "error" || status === "disconnected" ? error?.message : null);
  void askTail();
}

/** A mark in the answer that is not part of its text. */
function seam(turn, kind, label) {
  const mark = document.createElement("span");
  mark.className = `seam ${kind}`;
  mark.dataset.label = label;
  turn.answer.append(mark);
}

/** Why an earlier answer is not here; that of the current one is in the notice. */
function showNote(turn, { status, error }) {
  const note = turn.node.querySelector(".turn-note");
  note.hidden = turn === current() || status !== "error";
  note.textContent = note.hidden ? "" : `This answer cannot be shown: ${error?.message}.`;
}

function record(status, why) {
  const entry = document.createElement("li");
  entry.dataset.state = status;
  const time = document.createElement("time");
  time.textContent = `${(performance.now() / 1000).toFixed(1)} s`;
  const text = document.createElement("span");
  const name = document.createElement("b");
  name.textContent = status;
  text.append(name);
  if (why) {
    const reason = document.createElement("small");
    reason.textContent = ` ${why}`;
    text.append(reason);
  }
  entry.append(time, text);
  const history = byId("history");
  history.querySelector(".none")?.remove();
  history.prepend(entry);
  while (history.children.length > MAX_HISTORY) history.lastChild.remove();
}

const NOTHING = { status: "idle", loading: false, canResume: false, stopping: false };

function showControls() {
  const turn = current();
  const snapshot = turn?.stream.getSnapshot() ?? NOTHING;
  const { status, loading, canResume, stopping } = snapshot;
  showState(status, loading);
  const focused = document.activeElement;
  byId("send").hidden = loading;
  byId("stop").hidden = !(loading || status === "disconnected");
  byId("stop").ariaDisabled = String(stopping); // disabled, it would lose the focus
  byId("stop").querySelector("span").textContent = stopping ? "Stopping…" : "Stop";
  byId("continue").disabled = !canResume;
  byId("retry").disabled = loading || !turn?.question;
  // A button that takes the focus away with it would leave the keyboard at the page's start.
  if (focused === byId("send") && loading) byId("stop").focus();
  if (focused === byId("stop") && byId("stop").hidden) byId(canResume ? "continue" : "prompt").focus();
  byId("new").hidden = loading || turns.length === 0;
  byId("empty").hidden = turns.length > 0;
  const ids = idsOf();
  byId("share").hidden = ids.length === 0;
  byId("share").href = `#${ids.map(encodeURIComponent).join(",")}`;
  const notice = turn ? noticeOf(snapshot) : "";
  byId("notice").hidden = !notice;
  if (byId("notice").textContent !== notice) byId("notice").textContent = notice;
}

function showState(status, loading) {
  if (document.body.dataset.state === status) return;
  document.body.dataset.state = status;
  document.body.classList.toggle("loading", loading);
  byId("badge").textContent = status;
  byId("scroll").setAttribute("aria-busy", String(loading));
  for (const node of byId("machine").querySelectorAll("g")) {
    const isNow = node.dataset.state === status;
    node.classList.toggle("now", isNow);
    if (isNow) node.classList.add("seen");
  }
}

/** What the page is waiting for, or what went wrong. */
function noticeOf({ status, error, text, stopping }) {
  if (status === "disconnected") {
    const reason = `The server does not answer (${error?.message ?? "the page was away"}).`;
    return `${reason} Looking for it every few seconds; Continue asks at once.`;
  }
  if (status === "error") return error.message;
  if (status === "reconnecting") return "The connection is down. Reconnecting…";
  if (error) {
    return `Stop did not reach the server: ${error.message}. The model may still be writing.`;
  }
  if (status !== "streaming" || text !== "" || stopping) return "";
  return isModelLoading ? "The model is being loaded…" : "Waiting for the model's first word…";
}

function showBytes() {
  const { stream, tail } = current() ?? { stream: null, tail: null };
  const { streamId = null, offset = 0, status, loading } = stream?.getSnapshot() ?? NOTHING;
  const end = Math.max(tail ?? 0, offset); // the last answer of the server may be older
  const scale = loading || status === "disconnected" ? end * 1.15 : end;
  byId("bar-read").style.width = `${scale ? (100 * offset) / scale : 0}%`;
  byId("bar-tail").style.width = `${scale ? (100 * end) / scale : 0}%`;
  byId("stream-id").textContent = streamId ?? "–";
  byId("stream-id").title = streamId ?? "";
  byId("offset").textContent = number.format(offset);
  byId("tail").textContent = tail === null && offset === 0 ? "–" : number.format(end);
  byId("received").textContent = number.format(line.received);
  byId("connections").textContent = number.format(line.connections);
  const whole = tail !== null && offset === tail && (status === "done" || status === "stopped");
  byId("verdict").classList.toggle("whole", whole);
  byId("verdict").textContent = verdict(streamId, end - offset, whole && tail);
}

function verdict(streamId, behind, whole) {
  if (!streamId) return "No stream yet.";
  if (whole) return `All ${number.format(whole)} bytes are here.`;
  if (behind > 0) return `The server is ${number.format(behind)} bytes ahead.`;
  return "Nothing is missing so far.";
}

// What the server says beside the line, so that it can be seen while the line is cut ------

let isModelLoading = false;

async function ask(path) {
  try {
    const response = await fetch(path, { cache: "no-store" });
    return response.ok ? await response.json() : {};
  } catch {
    return {}; // the server is away
  }
}

async function askTail() {
  const turn = current();
  const { streamId, offset } = turn?.stream ?? {};
  if (!streamId || offset === 0) return; // it may not have begun
  const { tail } = await ask(`${ENDPOINT}/status?id=${encodeURIComponent(streamId)}`);
  if (typeof tail !== "number" || streamId !== turn.stream.streamId) return;
  turn.tail = Math.max(tail, turn.tail ?? 0);
  showBytes();
}

async function askWhetherLoading() {
  isModelLoading = (await ask("./info")).loading === true;
  showControls();
}

setInterval(() => {
  const stream = current()?.stream;
  if (!stream?.loading && stream?.status !== "disconnected") return;
  void askTail();
  if (stream.status === "streaming" && stream.text === "") void askWhetherLoading();
}, LOOK_MS);

// The end of the conversation stays in view until the reader scrolls up ---------------------

let follows = true;
let lastTop = 0;
const scroll = byId("scroll");
const toTheEnd = () => {
  if (follows) scroll.scrollTop = scroll.scrollHeight;
};
scroll.addEventListener("scroll", () => {
  // Growing text moves the end away without a scroll, so only a way up is the reader's.
  const isAtEnd = scroll.scrollHeight - scroll.clientHeight - scroll.scrollTop < 8;
  if (isAtEnd) follows = true;
  else if (scroll.scrollTop < lastTop) follows = false;
  lastTop = scroll.scrollTop;
});
const resized = new ResizeObserver(toTheEnd);
resized.observe(scroll);
resized.observe(byId("turns"));

// What the user does -------------------------------------------------------------------

byId("form").addEventListener("submit", (event) => {
  event.preventDefault();
  const prompt = byId("prompt").value.trim();
  if (prompt && !current()?.stream.loading) send(prompt);
});
byId("prompt").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  byId("form").requestSubmit();
});
byId("stop").addEventListener("click", () => void current()?.stream.stop());
byId("continue").addEventListener("click", () => void current()?.stream.resume());
byId("retry").addEventListener("click", () => send(current().question, current()));
byId("new").addEventListener("click", () => {
  if (location.hash) history.replaceState(null, "", location.pathname + location.search);
  load([]);
  byId("prompt").focus();
});
byId("cut").addEventListener("change", ({ target }) => setCut(target.checked));
for (const pill of document.querySelectorAll(".pill")) {
  pill.addEventListener("click", () => send(pill.textContent));
}
window.addEventListener("hashchange", () => {
  if (idsInHash().length > 0) load(idsInHash());
});

byId("cut").checked = false; // a browser may restore its old position with the page
load(idsInHash().length > 0 ? idsInHash() : recall());

const info = await ask("./info");
byId("model").title = info.hint ?? "";
byId("monitor").hidden = !info.monitor;
for (const [id, text] of [["model", info.label ?? info.model], ["store", info.store]]) {
  byId(id).hidden = !text;
  byId(id).lastElementChild.textContent = text ?? "";
}
