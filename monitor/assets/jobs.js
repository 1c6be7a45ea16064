// The page of all jobs: the fleet's figures, a filter, a row per job. The newest hundred live; older ones are loaded on
// demand and stay as they were read.

import { get } from "./api.js";
import { attr, button, h, replace, show, text } from "./dom.js";
import { age, compact, count, lastPart, percent, plural, rate } from "./format.js";
import { move } from "./keys.js";
import { api, page } from "./links.js";
import { active, badge, bucketMark, empty, emptyPlace, eta, figure, finished, foreign, notice, progress, searchBox, segmented, sparkline, strip, table, time } from "./parts.js";
import { STATES, byCount } from "./words.js";

const PAGE = 100;
/** Ages are written anew every so many ticks. */
const AGES = 15;

/** Whether a job fits the words of the filter: all of them, anywhere in its names. */
export function fits(job, words, state) {
  if (state && job.state !== state) return false;
  const names = [job.job, job.model, job.queue, job.out, ...Object.keys(job.errors ?? {})].join("\n").toLowerCase();
  return words.toLowerCase().split(/\s+/).every((word) => names.includes(word));
}

const COLUMNS = [
  {
    name: "Job", class: "c-job",
    live() {
      const link = h("a", { class: "row-link", "data-stop": true });
      const from = bucketMark();
      const under = h("small", { class: "under" });
      return {
        element: [h("div", { class: "row-name" }, link, from), under],
        update(job) {
          attr(link, "href", page.job(job.job));
          text(link, foreign(job.job));
          show(from, job.source === "bucket");
          text(under, [lastPart(job.model), job.queue, job.out].filter(Boolean).map(foreign).join(" · "));
          attr(under, "title", [job.model, job.queue, job.out].filter(Boolean).map(foreign).join("\n"));
        },
      };
    },
  },
  { name: "State", class: "c-state", live: badge },
  {
    name: "Progress", class: "c-progress",
    live() {
      const share = h("b");
      const done = h("span", { class: "muted" });
      const bar = progress();
      return {
        element: [h("div", { class: "progress-words" }, share, done), bar.element],
        update(job) {
          bar.update(job);
          text(share, percent(finished(job), job.images_planned));
          text(done, `${compact(finished(job))} of ${compact(job.images_planned)}`);
          attr(done, "title", `${count(job.images_ok)} ok, ${count(job.images_failed)} failed, of ${plural(job.images_planned, "image")}`);
        },
      };
    },
  },
  {
    name: "Images/s", class: "c-rate n",
    live() {
      const speed = h("b");
      const spark = sparkline();
      return {
        element: h("div", { class: "rate-box" }, spark.element, speed),
        update(job) {
          text(speed, active(job) ? rate(job.images_per_second) : "–");
          spark.update(active(job) ? job.rates : []);
        },
      };
    },
  },
  { name: "Time left", class: "c-eta n", text: (job) => eta(job)[0], small: (job) => eta(job)[1], kind: (job) => (active(job) && job.eta_seconds != null ? null : "quiet") },
  {
    name: "Failures", class: "c-codes", kind: (job) => (job.images_failed > 0 ? "bad" : "quiet"),
    text: (job) => (job.images_failed > 0 ? `${count(job.images_failed)} · ${percent(job.images_failed, finished(job))}` : "none"),
    small: (job) => byCount(job.errors).map(([code, n]) => `${foreign(code)} ${compact(n)}`).join(", "),
    hint: (job) => byCount(job.errors).map(([code, n]) => `${count(n)} ${foreign(code)}`).join("\n") || null,
  },
  { name: "Age", class: "c-age n", text: (job) => age(time.now() - job.created_unix_ms), hint: (job) => `created ${new Date(job.created_unix_ms).toLocaleString("en-GB")}` },
];

/** Opens the page in `main`. */
export function open(main, context) {
  const filter = { q: context.filters.q ?? "", state: STATES.includes(context.filters.state) ? context.filters.state : "" };
  const byId = new Map();
  let counts = {};
  let loaded = false;
  let ended = false;
  let ticks = 0;

  const figures = {
    rate: figure("images/s", "Images per second over all workers"),
    workers: figure("workers", "Workers that gave a sign of life", page.workers()),
    running: figure("running", "Jobs that are running or being enqueued"),
    ready: figure("ready", "Batches waiting in queues", page.queues()),
    unacked: figure("in work", "Batches delivered and not yet acknowledged", page.queues()),
    dead: figure("dead letters", "Messages that were given up: they wait for a decision", page.queues()),
  };
  const search = searchBox("Filter jobs", "Filter by id, model, queue, output, code", filter.q, 80, (words) => set({ q: words }));
  const states = segmented("State", [["", "All"], ...STATES.map((state) => [state, state[0].toUpperCase() + state.slice(1)])], (state) => set({ state }));
  const list = table("Jobs", "jobs", COLUMNS, (job) => job.job);
  const nothing = emptyPlace();
  const problem = notice();
  const shownOf = h("span", { class: "muted" });
  const more = button("Load older jobs", older, "", { hidden: true });
  states.update(filter.state);
  list.skeleton(5);
  replace(main, h("h1", { class: "sr" }, "Jobs"), strip(figures), h("div", { class: "filters" }, search.element, states.element),
    problem.element, list.element, nothing.element, h("div", { class: "more" }, more, shownOf));
  context.title("Jobs");

  function set(values) {
    Object.assign(filter, values);
    context.address(page.jobs(filter));
    render(false);
  }

  function render(ages) {
    states.update(filter.state, counts);
    if (!loaded) return;
    const jobs = [...byId.values()].sort((a, b) => b.created_unix_ms - a.created_unix_ms || (a.job < b.job ? 1 : -1));
    const shown = jobs.filter((job) => fits(job, filter.q, filter.state));
    list.update(shown, ages);
    nothing.say(shown.length ? "" : `${jobs.length > 0}`, () => (jobs.length
      ? empty("No job fits the filter", `${plural(jobs.length, "job")} looked at.`, [], ["Clear the filter", () => { search.input.value = ""; set({ q: "", state: "" }); }])
      : empty("No jobs yet", "Give trawl a bucket, a model and a place for the results:",
        ["trawl submit s3://BUCKET/photos --model MODEL.pt --out s3://BUCKET/labels", "trawl-worker --queue default"])));
    show(more, !ended && byId.size >= PAGE);
    text(shownOf, !jobs.length ? "" : shown.length === jobs.length ? plural(jobs.length, "job") : `${count(shown.length)} of ${plural(jobs.length, "job")}`);
  }

  async function older() {
    more.disabled = true;
    try {
      const before = Math.min(...[...byId.values()].map((job) => job.created_unix_ms));
      const found = (await get(api.jobs(PAGE, before), context.signal)).jobs ?? [];
      const size = byId.size;
      for (const job of found) if (!byId.has(job.job)) byId.set(job.job, job);
      ended = found.length < PAGE || byId.size === size;
      render(false);
    } catch (error) {
      if (!context.signal.aborted) context.toast(error.message, "bad");
    }
    more.disabled = false;
  }

  return {
    topics: ["jobs"],
    overview(found) {
      counts = found.jobs ?? {};
      figures.rate.update(rate(found.images_per_second));
      figures.workers.update(count(found.workers), found.workers === 0 && counts.running > 0 ? "warn" : null);
      figures.running.update(count((counts.running ?? 0) + (counts.enqueuing ?? 0)));
      figures.ready.update(compact(found.ready));
      figures.unacked.update(compact(found.unacked));
      figures.dead.update(compact(found.dead), found.dead > 0 ? "bad" : null);
      states.update(filter.state, counts);
    },
    data(found) {
      problem.say("");
      const newest = found.jobs ?? [];
      // What the newest page no longer holds, though it is younger than its end, is gone.
      const end = newest.length >= PAGE ? Math.min(...newest.map((job) => job.created_unix_ms)) : -Infinity;
      const ids = new Set(newest.map((job) => job.job));
      for (const [id, job] of byId) if (job.created_unix_ms > end && !ids.has(id)) byId.delete(id);
      for (const job of newest) byId.set(job.job, job);
      loaded = true;
      render(false);
    },
    error: (error) => problem.say(error.message),
    tick: () => { if (++ticks % AGES === 0) render(true); },
    act: (key, target) => search.act(key, target) || move(list.body, key),
  };
}
