// The monitor page's figures and words: what people read and act on. Run: node --test tests/web/
import assert from "node:assert/strict";
import { test } from "node:test";
import * as format from "../../monitor/assets/format.js";

const plain = (text) => text.replaceAll("\u202f", " ");

test("counts are grouped and shortened without losing what matters", () => {
  assert.equal(format.count(1234567), "1,234,567");
  assert.equal(format.count(null), "–");
  assert.equal(format.count(NaN), "–");
  for (const [value, shown] of [[0, "0"], [9_999, "9,999"], [10_000, "10 k"], [14_210, "14.2 k"], [1_281_167, "1.28 M"], [999_999, "1 M"], [12_400_000, "12.4 M"], [3e9, "3 G"]]) {
    assert.equal(plain(format.compact(value)), shown);
  }
});

test("a share is never 100 % before the end nor 0 % after the beginning", () => {
  for (const [part, whole, shown] of [[0, 10, "0 %"], [1, 1_000_000, "<0.1 %"], [1, 1000, "0.1 %"], [634, 1000, "63.4 %"], [999_999, 1_000_000, "99.9 %"], [10, 10, "100 %"], [11, 10, "100 %"]]) {
    assert.equal(plain(format.percent(part, whole)), shown);
  }
  for (const whole of [0, null, undefined]) assert.equal(format.percent(1, whole), "–");
  assert.equal(plain(format.probability(0.99999)), "99.9 %");
});

test("rates keep their last useful digit", () => {
  for (const [value, shown] of [[0, "0"], [0.001, "<0.01"], [0.5, "0.50"], [9.999, "10.0"], [12.34, "12.3"], [99.96, "100"], [2345.6, "2,346"], [null, "–"]]) {
    assert.equal(format.rate(value), shown);
  }
});

test("spans of time", () => {
  for (const [seconds, shown] of [[0, "0 s"], [59.4, "59 s"], [60, "1 min"], [200, "3 min 20 s"], [700, "12 min"], [3599, "1 h"], [7500, "2 h 05 min"], [90_000, "25 h"], [200_000, "2 d 8 h"], [-5, "0 s"], [null, "–"]]) {
    assert.equal(plain(format.duration(seconds)), shown, String(seconds));
  }
  for (const [ms, shown] of [[999, "0 s"], [61_000, "1 min"], [7_200_000, "2 h"], [86_400_000 * 3, "3 d"]]) assert.equal(plain(format.age(ms)), shown);
  assert.equal(plain(format.durationRange(720, 1080)), "12 to 18 min");
  assert.equal(plain(format.durationRange(40, 70)), "40 to 70 s");
  assert.equal(plain(format.durationRange(5000, 9000)), "1.4 to 2.5 h");
  for (const [low, high] of [[null, 5], [9, 3], [61, 62.1], [600, 610]]) assert.equal(format.durationRange(low, high) === "" || low === 61, true);
  assert.equal(format.durationRange(600, 610), "");
});

test("sizes and milliseconds", () => {
  for (const [value, shown] of [[0, "0 B"], [999, "999 B"], [1500, "1.5 kB"], [2_100_000_000, "2.1 GB"]]) assert.equal(plain(format.bytes(value)), shown);
  for (const [value, shown] of [[0.004, "<0.01 ms"], [3.92, "3.92 ms"], [12.34, "12.3 ms"], [1500, "1.5 s"]]) assert.equal(plain(format.milliseconds(value)), shown);
});

test("a time of day names its date only when it is not today's", () => {
  const now = Date.UTC(2026, 10, 22, 15, 0);
  assert.equal(format.clock(Date.UTC(2026, 10, 22, 9, 5), now, "UTC"), "09:05");
  assert.equal(format.clock(Date.UTC(2026, 10, 21, 9, 5), now, "UTC"), "21 Nov 09:05");
  assert.equal(format.clock(Date.UTC(2025, 10, 21, 9, 5), now, "UTC"), "21 Nov 2025 09:05");
});

test("somebody else's text stays what it is, with what would hide made visible", () => {
  assert.equal(format.visible("<img src=x onerror=alert(1)>"), "<img src=x onerror=alert(1)>");
  assert.equal(format.visible("evil\u202egpj.exe"), "evil\\u{202e}gpj.exe");
  assert.equal(format.visible("a\nb\u0000"), "a\\u{a}b\\u{0}");
  assert.equal(format.visible("Straße 道 🐟"), "Straße 道 🐟");
});

test("a copied command does what it shows", () => {
  assert.equal(format.shellWord("s3://labels/a-1_b.c"), "s3://labels/a-1_b.c");
  assert.equal(format.shellWord("-rf"), "'-rf'");
  assert.equal(format.shellWord("a b"), "'a b'");
  assert.equal(format.shellWord("it's $(rm -rf ~)"), "'it'\\''s $(rm -rf ~)'");
  assert.equal(format.shellWord("a\nb"), "'a\\u{a}b'");
  assert.equal(format.shellWord(""), "''");
});

test("the middle of a long name goes, its ends stay", () => {
  assert.equal(format.middle("short", 9), "short");
  assert.equal(format.middle("0123456789abcdef", 9), "01…abcdef");
  assert.equal(Array.from(format.middle("🐟".repeat(50), 9)).length, 9);
});
