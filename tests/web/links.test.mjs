// Addresses of the monitor page: whatever a name holds, it stays one segment and comes back as it was; and the words
// for codes and stages keep up with the workspace. Run: node --test tests/web/
import assert from "node:assert/strict";
import { readFileSync, readdirSync } from "node:fs";
import { test } from "node:test";
import * as links from "../../monitor/assets/links.js";
import * as words from "../../monitor/assets/words.js";

const NASTY = ["job-0123456789ab", "a/b", "../../etc", "?x=1&y=2#z", "<img src=x onerror=alert(1)>", "100%", "ü 🐟", "a b+c"];

test("names survive the way into an address and back", () => {
  for (const name of NASTY) {
    assert.deepEqual(links.route(new URL(links.page.job(name), "http://m").pathname), { page: "job", job: name });
    assert.deepEqual(links.route(new URL(links.page.gallery(name), "http://m").pathname), { page: "gallery", job: name });
    assert.equal(new URL(links.api.dead(name, name, "retry"), "http://m").pathname.split("/").length, 7);
    const url = new URL(links.page.gallery("j", { label: name, min: "0.5" }), "http://m");
    assert.deepEqual(links.filters(url.search, ["label", "min", "code"]), { label: name, min: "0.5" });
  }
});

test("pages", () => {
  assert.deepEqual(["/", "/jobs", "/workers", "/queues", "/nothing", "/jobs/a/b", "/jobs/%zz"].map((path) => links.route(path).page),
    ["jobs", "jobs", "workers", "queues", "missing", "missing", "missing"]);
});

test("topics have the address they are polled at", () => {
  assert.equal(links.topicAddress("job:a/b"), "/api/jobs/a%2Fb");
  assert.equal(links.topicAddress("jobs"), "/api/jobs?limit=100");
  assert.equal(links.topicAddress("overview"), "/api/overview");
  assert.equal(links.api.events(["overview", "job:x y"]), "/api/events?topics=overview%2Cjob%3Ax%20y");
});

test("what is not set is not in the query, a zero is", () => {
  assert.equal(links.query({ a: "", b: null, c: undefined, d: 0 }), "?d=0");
  assert.equal(links.query({}), "");
});

test("every error code and every stage of the workspace has its words", () => {
  const source = (path) => readFileSync(new URL(`../../${path}`, import.meta.url), "utf8");
  const codes = [...source("common/src/error_code.rs").matchAll(/^ {4}[A-Z]\w+ = "(\w+)",/gm)].map((found) => found[1]);
  assert.ok(codes.length > 10);
  assert.deepEqual([...words.CODE_NAMES].sort(), codes.sort());
  const stages = [...source("common/src/stages.rs").matchAll(/Self::\w+ => "(\w+)"/g)].map((found) => found[1]).slice(0, 6);
  assert.deepEqual(words.STAGES, stages);
  for (const stage of stages) assert.ok(words.advice(stage) && words.STAGE_MEANS[stage]);
  assert.equal(words.codeMeans("constructor"), "");
  assert.equal(words.advice("toString"), "");
});

test("nothing in the page can turn text into markup, and nothing comes from elsewhere", () => {
  const folder = new URL("../../monitor/assets/", import.meta.url);
  for (const name of readdirSync(folder)) {
    const text = readFileSync(new URL(name, folder), "utf8");
    const code = text.replace(/^\s*(\/\/|\/?\*).*$/gm, "");
    assert.doesNotMatch(code, /innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|setAttribute\("style"/, name);
    assert.doesNotMatch(code.replaceAll("http://www.w3.org/2000/svg", ""), /https?:\/\/|url\(|@import/, name);
    if (name.endsWith(".html")) assert.doesNotMatch(text, / style=| on[a-z]+=|<script>(?!<)/, name);
    assert.ok(text.split("\n").length <= 420, `${name} is too long`);
  }
});
