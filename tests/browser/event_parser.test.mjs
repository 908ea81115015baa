// How bytes become events. Run by test_stream_js_node.py.

import assert from "node:assert/strict";
import { test } from "node:test";

import { EventParser } from "../../stores/streamstores/http/chat/stream.js";

const bytes = (text) => new TextEncoder().encode(text);

function parse(...chunks) {
  const parser = new EventParser();
  return chunks.flatMap((chunk) =>
    parser.push(typeof chunk === "string" ? bytes(chunk) : chunk),
  );
}

const text = (data, id = null) => ({ name: "", data, id });

test("an event has a name, an id and data", () => {
  assert.deepEqual(parse("event: usage\nid: 12\ndata: {}\n\n"), [
    { name: "usage", data: "{}", id: "12" },
  ]);
});

test("an id belongs to its own event alone", () => {
  assert.deepEqual(parse("id: 1\ndata: a\n\ndata: b\n\n"), [text("a", "1"), text("b")]);
});

for (const [name, end] of [
  ["LF", "\n"],
  ["CR", "\r"],
  ["CR LF", "\r\n"],
]) {
  test(`lines end with ${name}`, () => {
    assert.deepEqual(parse(`data: a${end}data: b${end}${end}data: c${end}${end}`), [
      text("a\nb"),
      text("c"),
    ]);
  });
}

test("lines end with a mixture", () => {
  assert.deepEqual(parse("data: a\rdata: b\r\ndata: c\n\r\n"), [text("a\nb\nc")]);
});

test("a CR ends its line at once, and the LF that follows in the next chunk ends nothing", () => {
  const parser = new EventParser();
  assert.deepEqual(parser.push(bytes("data: a\r\n\r")), [text("a")]);
  assert.deepEqual(parser.push(bytes("\ndata: b\r")), []);
  assert.deepEqual(parser.push(bytes("\n")), []);
  assert.deepEqual(parser.push(bytes("\r\n")), [text("b")]);
});

test("an empty chunk between CR and LF changes nothing", () => {
  assert.deepEqual(parse("data: a\r", "", "\ndata: b\r", new Uint8Array(), "\n\n"), [
    text("a\nb"),
  ]);
});

test("nothing else ends a line: not U+2028, U+2029, NEL, VT, FF, NUL", () => {
  const data = "a\u2028b\u2029c\u0085d\u000be\u000cf\u0000g";
  assert.deepEqual(parse(`data: ${data}\n\n`), [text(data)]);
});

test("one space after the colon belongs to the field, a second to the text", () => {
  assert.deepEqual(
    parse("data:a\n\ndata: a\n\ndata:  a\n\ndata:\ta\n\n").map((e) => e.data),
    ["a", "a", " a", "\ta"],
  );
});

test("a colon in the value is kept", () => {
  assert.deepEqual(parse("data: a: b:c\n\n"), [text("a: b:c")]);
});

test("several data lines are joined by LF, empty ones too", () => {
  assert.deepEqual(parse("data: \ndata:\ndata: a\ndata\n\n"), [text("\n\na\n")]);
});

test("empty data makes an event, and no data makes none", () => {
  assert.deepEqual(parse("event: done\ndata:\n\nevent: lost\nid: 1\n\ndata: a\n\n"), [
    { name: "done", data: "", id: null },
    text("a"),
  ]);
});

test("comments and unknown fields are ignored", () => {
  assert.deepEqual(parse(": hello\n:\nretry: 10\nfoo: bar\n data: no\ndata: a\n\n"), [
    text("a"),
  ]);
});

test("an id with NUL is ignored", () => {
  assert.deepEqual(parse("id: 1\0\ndata: a\n\n"), [text("a")]);
});

test("a BOM is dropped at the start and kept elsewhere", () => {
  assert.deepEqual(parse("\ufeffdata: a\n\ndata: \ufeffb\n\n"), [text("a"), text("\ufeffb")]);
});

test("an event without its empty line is dropped", () => {
  assert.deepEqual(parse("data: a\n\ndata: b\n"), [text("a")]);
});

const EXACT = "\ufeffid: 3\nevent: x\ndata: é😀\u2028\0 \r\ndata: 👩‍👩‍👧\r\r: c\ndata: z\n\n";

test("chunks may end anywhere, inside a character and inside CR LF", () => {
  const whole = bytes(EXACT);
  const expected = [{ name: "x", data: "é😀\u2028\0 \n👩‍👩‍👧", id: "3" }, text("z")];
  assert.deepEqual(parse(whole), expected);
  assert.deepEqual(parse(...Array.from(whole, (byte) => Uint8Array.of(byte))), expected);
  for (let cut = 1; cut < whole.length; cut++) {
    assert.deepEqual(parse(whole.slice(0, cut), whole.slice(cut)), expected);
  }
});

test("a line of four megabytes in chunks of four bytes is one event", () => {
  const parser = new EventParser();
  const chunk = bytes("abcd");
  parser.push(bytes("data: "));
  for (let n = 0; n < 1_000_000; n++) parser.push(chunk);
  const [event] = parser.push(bytes("\n\n"));
  assert.equal(event.data.length, 4_000_000);
  assert.equal(event.data, "abcd".repeat(1_000_000));
});
