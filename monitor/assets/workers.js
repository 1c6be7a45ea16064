// The page of workers: what each is, how fast, how busy each stage is, what binds, what it holds, when it was last
// heard. Silent ones come first: they are why somebody looks.

import { attr, h, keyed, replace, text, vary } from "./dom.js";
import { age, bytes, compact, count, duration, percent, plural, rate } from "./format.js";
import { move } from "./keys.js";
import { page } from "./links.js";
import { empty, emptyPlace, figure, foreign, notice, searchBox, strip, table, time } from "./parts.js";
import { STAGES, STAGE_MEANS, advice } from "./words.js";

const SHORT = { fetch: "fetch", decode: "dec", forward: "fwd", encode: "enc", put: "put", commit: "com" };
/** Batches named in a row; a worker with many lanes has more, and the rest is counted. */
const NAMED = 3;

function busyBars() {
  const stages = STAGES.map((stage) => {
    const bar = h("i");
    return { stage, bar, item: h("li", null, h("span", null, bar), h("small", null, SHORT[stage])) };
  });
  const element = h("ul", { class: "busy", role: "img" }, stages.map(({ item }) => item));
  return {
    element,
    update({ worker }) {
      const [busy, binding] = worker.silent ? [{}, null] : [worker.busy ?? {}, worker.binding];
      for (const { stage, bar, item } of stages) {
        const share = Math.max(0, Math.min(1, busy[stage] ?? 0));
        vary(bar, "--share", `${(share * 100).toFixed(0)}%`);
        attr(item, "data-binding", stage === binding ? "" : null);
        attr(item, "title", `${stage}: ${percent(share, 1)} busy (${STAGE_MEANS[stage]})${stage === binding ? "; this one binds" : ""}`);
      }
      attr(element, "aria-label", STAGES.map((stage) => `${stage} ${percent(busy[stage] ?? 0, 1)}`).join(", ") + (binding ? `; ${binding} binds` : ""));
    },
  };
}

function batches() {
  const element = h("ul", { class: "batches" });
  return {
    element,
    update({ worker, since }) {
      const all = worker.in_flight ?? [];
      const rows = all.slice(0, NAMED);
      if (all.length > NAMED) rows.push({ rest: all.length - NAMED });
      keyed(element, rows, (row) => (row.rest ? "rest" : `${row.job} ${row.batch}`), (row) => {
        const words = h("span");
        const link = row.rest ? null : h("a", { href: page.job(row.job), title: foreign(row.job) }, foreign(row.job));
        return { element: h("li", null, link, words), update: (now) => text(words, now.rest ? `and ${count(now.rest)} more` : `#${count(now.batch)}, ${age(now.age_ms + since)}`) };
      });
      attr(element, "data-empty", all.length ? null : "");
    },
  };
}

function identity() {
  const name = h("b", { "data-stop": true, tabindex: "-1" });
  const tags = h("span", { class: "tags" });
  const under = h("small", { class: "under" });
  return {
    element: [h("div", { class: "row-name" }, name, tags), under],
    update({ worker, odd }) {
      text(name, foreign(worker.worker));
      const marks = [[worker.silent, "silent", "bad"], [worker.draining, "draining", "warn"], [odd, `version ${foreign(worker.version)}`, "warn"]].filter(([there]) => there);
      keyed(tags, marks, ([, word]) => word, ([, word, kind]) => ({ element: h("span", { class: "tag", "data-kind": kind }, word) }));
      text(under, [worker.device, worker.host && `${worker.host}:${worker.pid}`, worker.version && `v${worker.version}`, (worker.queues ?? []).join(", ")].filter(Boolean).map(foreign).join(" · "));
      attr(under, "title", [worker.model && `model ${foreign(worker.model)}`, worker.started_unix_ms && `up ${duration((time.now() - worker.started_unix_ms) / 1000)}`].filter(Boolean).join("\n"));
    },
  };
}

const COLUMNS = [
  { name: "Worker", class: "c-worker", live: identity },
  { name: "Images/s", class: "n", text: ({ worker }) => (worker.silent ? "–" : rate(worker.images_per_second)), kind: () => "strong" },
  { name: "Busy", class: "c-busy", title: "Share of each stage's lanes that was busy in the last interval", live: busyBars },
  { name: "Memory", class: "n", text: ({ worker }) => bytes(worker.memory_bytes), small: ({ worker }) => (worker.device_memory_bytes ? `device ${bytes(worker.device_memory_bytes)}` : "") },
  { name: "In flight", class: "c-flight", live: batches },
  { name: "Images", class: "n", text: ({ worker }) => compact(worker.images_total), hint: ({ worker }) => count(worker.images_total) },
  { name: "Heard", class: "n", text: ({ worker, since }) => `${age(worker.last_heartbeat_ms + since)} ago`, kind: ({ worker }) => (worker.silent ? "bad" : null) },
];

/** The version that most workers have. */
export const usual = (values) => {
  const counts = new Map();
  for (const value of values) counts.set(value, (counts.get(value) ?? 0) + 1);
  return [...counts].sort((a, b) => b[1] - a[1])[0] ?? [];
};

function fits(worker, words) {
  const names = [worker.worker, worker.host, worker.device, worker.version, worker.model, ...(worker.queues ?? []),
    ...(worker.in_flight ?? []).map((one) => one.job), worker.silent ? "silent" : "live", worker.draining && "draining"].join("\n").toLowerCase();
  return words.toLowerCase().split(/\s+/).every((word) => names.includes(word));
}

/** Opens the page in `main`. */
export function open(main, context) {
  let workers = null;
  let heardAt = 0;
  let words = context.filters.q ?? "";
  const figures = {
    rate: figure("images/s"), live: figure("live"), silent: figure("silent", "No sign of life for longer than a worker is ever quiet"),
    draining: figure("draining", "Finishing what they hold, taking nothing new"), flight: figure("in hand", "Batches that workers hold"),
  };
  const search = searchBox("Filter workers", "Filter by name, host, device, queue, job", words, 80, (said) => {
    words = said;
    context.address(page.workers({ q: words }));
    draw();
  });
  const list = table("Workers", "workers", COLUMNS, ({ worker }) => worker.worker, ({ worker }) => (worker.silent ? "silent" : null));
  const nothing = emptyPlace();
  const problem = notice();
  const binds = h("p", { class: "advice" });
  list.skeleton(4);
  replace(main, h("h1", { class: "sr" }, "Workers"), strip(figures), h("div", { class: "filters" }, search.element, binds), problem.element, list.element, nothing.element);
  context.title("Workers");

  function draw() {
    if (!workers) return;
    const live = workers.filter((worker) => !worker.silent);
    const sum = (of) => live.reduce((total, worker) => total + (of(worker) ?? 0), 0);
    figures.rate.update(rate(sum((worker) => worker.images_per_second)));
    figures.live.update(count(live.length));
    figures.silent.update(count(workers.length - live.length), workers.length > live.length ? "bad" : null);
    figures.draining.update(count(sum((worker) => Number(worker.draining))));
    figures.flight.update(count(sum((worker) => worker.in_flight?.length)));
    const [version] = usual(workers.map((worker) => worker.version));
    const [stage, n] = usual(live.map((worker) => worker.binding).filter(Boolean));
    text(binds, stage ? `${n === live.length ? "" : `On ${count(n)} of ${count(live.length)}: `}${advice(stage)}` : "");
    const since = Date.now() - heardAt;
    const shown = workers.filter((worker) => fits(worker, words)).sort((a, b) => Number(b.silent) - Number(a.silent) || a.worker.localeCompare(b.worker, "en", { numeric: true }));
    list.update(shown.map((worker) => ({ worker, since, odd: worker.version !== version })));
    nothing.say(shown.length ? "" : `${workers.length > 0}`, () => (workers.length ? empty("No worker fits the filter", `${plural(workers.length, "worker")} looked at.`)
      : empty("No workers", "Start one on any machine that reaches RabbitMQ, Redis and the bucket; as many as you like:", ["trawl-worker --queue default"])));
  }

  return {
    topics: ["workers"],
    data(found) {
      workers = found.workers ?? [];
      heardAt = Date.now();
      problem.say("");
      draw();
    },
    error: (error) => problem.say(error.message),
    tick: draw,
    act: (key, target) => search.act(key, target) || move(list.body, key),
  };
}
