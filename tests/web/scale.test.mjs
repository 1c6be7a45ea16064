// Geometry of the monitor page's bars and charts. Run: node --test tests/web/
import assert from "node:assert/strict";
import { test } from "node:test";
import * as scale from "../../monitor/assets/scale.js";

test("ticks are round, begin at 0 and reach the highest value", () => {
  assert.deepEqual(scale.niceTicks(2345), [0, 1000, 2000, 3000]);
  assert.deepEqual(scale.niceTicks(0.9), [0, 0.25, 0.5, 0.75, 1]);
  assert.deepEqual(scale.niceTicks(0), [0, 1]);
  assert.deepEqual(scale.niceTicks(Infinity), [0, 1]);
  for (let max = 1e-3; max < 1e9; max *= 1.37) {
    const ticks = scale.niceTicks(max);
    assert.ok(ticks.at(-1) >= max && ticks.length >= 2 && ticks.length <= 8, `${max}: ${ticks}`);
  }
});

test("time ticks fall on whole steps of the clock, and are few", () => {
  const from = Date.UTC(2026, 10, 22, 10, 3, 7);
  const { step, ticks } = scale.timeTicks(from, from + 30 * 60_000, 6, 0);
  assert.equal(step, 300_000);
  assert.ok(ticks.every((tick) => tick % step === 0 && tick >= from));
  for (let span = 2000; span < 1e9; span *= 1.9) assert.ok(scale.timeTicks(from, from + span, 6, -90).ticks.length <= 7);
  assert.deepEqual(scale.timeTicks(5, 5).ticks, []);
});

test("a line does not bridge a silence", () => {
  const points = [0, 10, 20, 30, 100, 110].map((at) => [at, 1]);
  assert.deepEqual(scale.segments(points).map((piece) => piece.length), [4, 2]);
  assert.deepEqual(scale.segments([]), []);
  assert.equal(scale.segments([[1, 1]]).length, 1);
});

test("the nearest point", () => {
  const points = [[0, 1], [10, 1], [20, 1]];
  assert.deepEqual([-5, 4, 6, 14, 16, 99].map((at) => scale.nearest(points, at)), [0, 0, 1, 1, 2, 2]);
  assert.equal(scale.nearest([], 3), -1);
  assert.equal(scale.nearest([[7, 1]], 3), 0);
});

test("thinning keeps the end and the mean", () => {
  const points = Array.from({ length: 180 }, (_, index) => [index, index]);
  const few = scale.thin(points, 40);
  assert.ok(few.length <= 40);
  assert.equal(few.at(-1)[0], 179);
  assert.equal(few[0][1], 2);
  assert.equal(scale.thin(points.slice(0, 5), 40).length, 5);
});

test("few failures can be seen, and a bar never overflows", () => {
  assert.deepEqual(scale.barShares(0, 0, 100), { ok: 0, failed: 0 });
  assert.deepEqual(scale.barShares(5, 5, 0), { ok: 0, failed: 0 });
  const some = scale.barShares(9_999_997, 3, 10_000_000);
  assert.ok(some.failed >= 0.5 && some.ok + some.failed <= 100);
  for (const [ok, failed] of [[100, 0], [0, 100], [50, 60], [99, 1]]) {
    const shares = scale.barShares(ok, failed, 100);
    assert.ok(shares.ok + shares.failed <= 100 + 1e-9);
  }
});

test("a flat domain lands in the middle", () => {
  assert.equal(scale.linear(3, 3, 0, 10)(3), 5);
  assert.equal(scale.linear(0, 10, 100, 0)(2.5), 75);
  assert.equal(scale.linePath([[0, 0], [1, 1]], (v) => v, (v) => v), "M0.0 0.0L1.0 1.0");
});
