const HISTORY = 120;
const RETRY_MS = 3000;
const TREND = 40;
const STATES = ["streaming", "stopped", "done", "error"];
const SVG = "http://www.w3.org/2000/svg";
const byId = (id) => document.getElementById(id);
const number = new Intl.NumberFormat("en");

// What is shown ------------------------------------------------------------------------

const rates = [];
const rows = new Map();

function show(snapshot) {
  setLine("live", "live");
  problem(null);
  for (const state of STATES) byId(state).textContent = number.format(snapshot.states[state] ?? 0);
  put(byId("stale"), number.format(snapshot.stale));
  put(byId("followers"), snapshot.followers === null ? "–" : number.format(snapshot.followers));
  document.body.classList.toggle("read-only", !snapshot.actions);
  showRate(snapshot.rate);
  showRows(snapshot.streams, Date.parse(snapshot.at));
  byId("count").textContent = countOf(snapshot);
}

function countOf({ streams, listed, complete }) {
  const of = complete ? number.format(listed) : `the first ${number.format(listed)}`;
  if (streams.length < listed) return `${number.format(streams.length)} of ${of} streams`;
  return complete ? `${of} ${listed === 1 ? "stream" : "streams"}` : `${of} streams; there are more`;
}

function showRate(rate) {
  rates.push(rate);
  if (rates.length > HISTORY) rates.shift();
  const [amount, unit] = size(rate);
  const small = document.createElement("small");
  small.textContent = ` ${unit}/s`;
  byId("rate").replaceChildren(amount, small);
  const top = Math.max(...rates, 1);
  const points = rates.map((each, n) => {
    const x = 100 - ((rates.length - 1 - n) * 100) / (HISTORY - 1);
    return `${x.toFixed(2)} ${(38 - (each / top) * 35).toFixed(2)}`;
  });
  const edge = `M${points.join("L")}`;
  const left = points[0].split(" ")[0];
  byId("edge").setAttribute("d", edge);
  byId("area").setAttribute("d", `${edge}L100 40L${left} 40Z`);
  const most = size(top).join(" ");
  byId("plot").setAttribute("aria-label", `Bytes written a second: now ${amount} ${unit}, at most ${most}`);
}

function showRows(streams, now) {
  const known = streams.some(({ followers }) => followers !== null);
  if (streams.length) document.body.classList.toggle("not-known", !known);
  const seen = new Set();
  const body = byId("rows");
  for (const [place, stream] of streams.entries()) {
    seen.add(stream.id);
    const row = rows.get(stream.id) ?? addRow(stream.id);
    fill(row, stream, now);
    if (body.children[place] !== row) body.insertBefore(row, body.children[place] ?? null);
  }
  for (const [id, row] of rows) {
    if (seen.has(id)) continue;
    row.remove();
    rows.delete(id);
  }
  byId("table").hidden = !streams.length;
  byId("none").hidden = Boolean(streams.length);
  byId("none").textContent = asked()
    ? "No stream has an id that begins so."
    : "No streams. They appear here as they are begun.";
}

/** A row of ten cells; what they hold changes, they stay. */
function addRow(id) {
  const row = document.createElement("tr");
  const labels = ["", "", "", "", "", "followers", "", "age", "ends in", ""];
  for (const label of labels) {
    const cell = row.insertCell();
    if (label) cell.dataset.label = label;
  }
  const [state, name, , tail, rate, followers, here, age, end, act] = row.cells;
  state.append(Object.assign(document.createElement("span"), { className: "badge" }));
  name.className = "id";
  name.textContent = name.title = id;
  for (const cell of [tail, rate, followers, age, end]) cell.className = "number";
  for (const cell of [followers, here]) cell.classList.add("of-process");
  here.append(Object.assign(document.createElement("span"), { className: "here" }));
  rate.append(trendPlot(), document.createElement("span"));
  act.className = "of-operator";
  const button = Object.assign(document.createElement("button"), { type: "button", textContent: "⋯" });
  button.setAttribute("aria-label", `Change the stream ${id}`);
  button.addEventListener("click", () => ask(row.stream));
  act.append(button);
  rows.set(id, row);
  return row;
}

/** A small plot of a stream's last rates; the number beside it says the last of them. */
function trendPlot() {
  const plot = document.createElementNS(SVG, "svg");
  plot.setAttribute("viewBox", "0 0 44 16");
  plot.setAttribute("class", "trend");
  plot.setAttribute("aria-hidden", "true");
  plot.append(document.createElementNS(SVG, "path"));
  return plot;
}

function showTrend(row, stream) {
  const isSame = row.stream?.createdAt === stream.createdAt;
  row.rates = [...(isSame ? row.rates : []), stream.rate ?? 0].slice(-TREND);
  const top = Math.max(...row.rates, 1);
  const points = row.rates.map((each, n) => {
    const x = 44 - ((row.rates.length - 1 - n) * 44) / (TREND - 1);
    return `${x.toFixed(1)} ${(15 - (each / top) * 14).toFixed(1)}`;
  });
  const plot = row.cells[4].firstChild;
  plot.firstChild.setAttribute("d", `M${points.join("L")}`);
  plot.classList.toggle("flat", !row.rates.some(Boolean));
}

function fill(row, stream, now) {
  const [state, name, model, tail, rate, followers, here, age, end] = row.cells;
  const badge = state.firstChild;
  const silence = span(stream.silentSeconds * 1000);
  put(badge, stream.stale ? `stale ${silence}` : stream.state);
  badge.dataset.state = stream.stale ? "stale" : stream.state;
  badge.title = stream.stale ? `no sign of life from its producer for ${silence}` : (stream.error ?? "");
  showTrend(row, stream);
  row.stream = stream;
  name.title = stream.error ? `${stream.id}\n${stream.error}` : stream.id;
  put(model, stream.attributes.model ?? "");
  put(tail, size(stream.tail).join(" "));
  tail.title = `${number.format(stream.tail)} bytes, version ${stream.version}`;
  const grows = stream.rate > 0;
  put(rate.lastChild, grows ? `${size(stream.rate).join(" ")}/s` : "–");
  rate.classList.toggle("grows", grows);
  put(followers, stream.followers ? String(stream.followers) : "–");
  here.firstChild.hidden = !stream.producedHere;
  put(here.firstChild, stream.producedHere ? "here" : "");
  put(age, span(now - Date.parse(stream.createdAt)));
  put(end, stream.expiresAt ? span(Date.parse(stream.expiresAt) - now) : "never");
  for (const [cell, blank] of [[model, !model.textContent], [rate, !grows], [followers, !stream.followers], [here, !stream.producedHere]]) {
    cell.classList.toggle("blank", blank);
    cell.classList.toggle("quiet", blank);
  }
}

/** Only what changed: so a selection stays. */
function put(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

function size(bytes) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (bytes >= 1024 && unit < units.length - 1) {
    bytes /= 1024;
    unit++;
  }
  return [unit && bytes < 100 ? bytes.toFixed(1) : number.format(Math.round(bytes)), units[unit]];
}

function span(milliseconds) {
  const seconds = Math.max(0, Math.round(milliseconds / 1000));
  if (seconds < 60) return `${seconds} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  const hours = Math.floor(seconds / 3600);
  return hours < 48 ? `${hours} h` : `${Math.floor(hours / 24)} d`;
}

function setLine(state, text) {
  byId("line").dataset.state = state;
  put(byId("line"), text);
}

function problem(text) {
  byId("notice").hidden = !text;
  put(byId("notice"), text ?? "");
}

// What an operator does ----------------------------------------------------------------

let asking = null;

function ask(stream) {
  asking = stream;
  put(byId("dialog-id"), stream.id);
  put(byId("refusal"), "");
  const isFinal = stream.state === "done" || stream.state === "error";
  const form = byId("form");
  for (const choice of form.elements.action) choice.disabled = choice.value === "stop" && (isFinal || stream.state === "stopped");
  form.elements.action.value = [...form.elements.action].find(({ disabled }) => !disabled).value;
  nameConfirmation();
  byId("dialog").showModal();
}

function nameConfirmation() {
  const names = { stop: "Stop the stream", expire: "Expire the stream", delete: "Delete the stream" };
  put(byId("confirm"), names[byId("form").elements.action.value]);
}

async function act() {
  const action = byId("form").elements.action.value;
  const { id, createdAt } = asking;
  const body = { action, id, createdAt, ...(action === "expire" && { ttl: Number(byId("ttl").value) }) };
  byId("confirm").disabled = true;
  try {
    const answer = await fetch("./actions", {
      method: "POST",
      headers: { "Content-Type": "application/json", "X-Streamstores-Monitor": "1" },
      body: JSON.stringify(body),
    });
    if (!answer.ok) throw new Error((await answer.json()).error);
    byId("dialog").close();
  } catch (error) {
    put(byId("refusal"), error.message);
  } finally {
    byId("confirm").disabled = false;
  }
}

byId("form").addEventListener("submit", (event) => {
  event.preventDefault();
  void act();
});
byId("form").addEventListener("change", nameConfirmation);
byId("cancel").addEventListener("click", () => byId("dialog").close());

// Where it comes from ------------------------------------------------------------------

let source = null;
let again = 0;

const asked = () => byId("prefix").value;
const query = () => `?${new URLSearchParams({ prefix: asked() })}`;

/** Nothing is asked of the server while nobody looks. */
function look() {
  leave();
  if (document.hidden) return;
  source = new EventSource(`./events${query()}`);
  source.addEventListener("snapshot", ({ data }) => show(JSON.parse(data)));
  source.addEventListener("problem", ({ data }) => {
    setLine("away", "no answer from the store");
    problem(JSON.parse(data).error);
  });
  source.addEventListener("error", () => {
    if (source.readyState === EventSource.CLOSED) void explain();
    else setLine("away", "reconnecting");
  });
}

function leave() {
  source?.close();
  source = null;
  clearTimeout(again);
}

/** An event source does not tell why it was refused; this does, and tries again later. */
async function explain() {
  const refused = source;
  setLine("away", "reconnecting");
  try {
    const answer = await fetch(`./streams${query()}`);
    if (refused !== source) return;
    if (!answer.ok) problem((await answer.json()).error);
  } catch {
    // the server is away, which the line says
  }
  if (refused === source) again = setTimeout(look, RETRY_MS);
}

let typed = 0;
byId("prefix").addEventListener("input", () => {
  clearTimeout(typed);
  typed = setTimeout(() => {
    rates.length = 0;
    look();
  }, 250);
});
document.addEventListener("visibilitychange", look);
addEventListener("pagehide", leave);
addEventListener("pageshow", ({ persisted }) => persisted && look());
look();
