// What the monitor's pages decide without a browser: which rows fit a filter, which buttons a state has, what is said
// about the time that is left. Run: node --test tests/web/
import assert from "node:assert/strict";
import { test } from "node:test";
import { deedsOf } from "../../monitor/assets/job.js";
import { fits } from "../../monitor/assets/jobs.js";
import { lastPart } from "../../monitor/assets/format.js";
import { eta } from "../../monitor/assets/parts.js";
import { byCount } from "../../monitor/assets/words.js";
import { usual } from "../../monitor/assets/workers.js";

const JOB = {
  job: "job-0123", state: "running", model: "s3://m/Lite0.pt", queue: "gpu", out: "s3://labels/x", errors: { truncated: 3 },
  images_planned: 100, images_ok: 40, images_failed: 2, eta_seconds: 900, eta_low_seconds: 720, eta_high_seconds: 1080, stalled_ms: null, source: "redis",
};

test("a filter finds a job by any of its names, all words at once", () => {
  for (const words of ["", "0123", "LITE0", "gpu labels", "truncated"]) assert.ok(fits(JOB, words, ""), words);
  for (const words of ["cpu", "gpu cpu"]) assert.ok(!fits(JOB, words, ""), words);
  assert.ok(fits(JOB, "", "running") && !fits(JOB, "", "paused"));
  assert.ok(fits({ ...JOB, model: null, errors: undefined }, "gpu", ""));
});

test("only what makes sense can be done", () => {
  assert.deepEqual(deedsOf(JOB), ["pause", "cancel"]);
  assert.deepEqual(deedsOf({ ...JOB, state: "enqueuing" }), ["pause", "cancel"]);
  assert.deepEqual(deedsOf({ ...JOB, state: "paused" }), ["resume", "cancel"]);
  for (const state of ["complete", "cancelled", "something new"]) assert.deepEqual(deedsOf({ ...JOB, state }), []);
  assert.deepEqual(deedsOf({ ...JOB, source: "bucket" }), []);
});

test("the time left is never invented", () => {
  const words = (job) => eta({ ...JOB, ...job }).map((text) => text.replaceAll("\u202f", " "));
  assert.deepEqual(words({}), ["15 min", "12 to 18 min"]);
  assert.deepEqual(words({ eta_seconds: null }), ["not known yet", ""]);
  assert.deepEqual(words({ state: "enqueuing", eta_seconds: null }), ["not known yet", "still listing"]);
  assert.deepEqual(words({ stalled_ms: 5 }), ["stalled", "nothing finishes"]);
  assert.deepEqual(words({ images_ok: 98 }), ["finishing", "writing manifest"]);
  assert.deepEqual(words({ state: "paused" }), ["paused", ""]);
  assert.deepEqual(words({ state: "complete" }), ["done", ""]);
});

test("small orders", () => {
  assert.deepEqual(byCount({ b: 1, a: 1, c: 9, d: 0 }), [["c", 9], ["a", 1], ["b", 1]]);
  assert.deepEqual(byCount(null), []);
  assert.deepEqual(usual(["1", "2", "2"]), ["2", 2]);
  assert.deepEqual(usual([]), []);
  for (const [path, last] of [["s3://b/a/x.jpg", "x.jpg"], ["a/b//", "b"], ["x", "x"], ["", ""], [null, ""]]) assert.equal(lastPart(path), last);
});
