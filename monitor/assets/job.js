// The page of one job: how far, how fast, how long, what binds, what is in flight, what failed and why; and the
// buttons of whoever is signed in. Every change is confirmed by a person first and shown when the monitor said so.

import { post, session } from "./api.js";
import { rateChart } from "./chart.js";
import { confirm } from "./dialogs.js";
import { attr, button, h, keyed, replace, show, text, vary } from "./dom.js";
import { age, clock, count, duration, lastPart, middle, milliseconds, percent, plural, rate, shellWord } from "./format.js";
import { deadLetters, errorRows, inFlight } from "./joblists.js";
import { move } from "./keys.js";
import { api, page } from "./links.js";
import { active, badge, bars, bucketMark, copyButton, empty, emptyPlace, eta, figure, finished, foreign, notice, progress, stalled, strip, time } from "./parts.js";
import { STAGES, STAGE_MEANS, advice } from "./words.js";

const DEEDS = {
  pause: {
    title: "Pause this job?", action: "Pause", done: "Paused.",
    sentences: ["Workers finish the batches they hold and take no more of this job until it is resumed. Nothing is lost."],
  },
  resume: { title: "Resume this job?", action: "Resume", done: "Resumed.", sentences: ["Workers take its batches again."] },
  cancel: {
    title: "Cancel this job?", action: "Cancel the job", kind: "danger", done: "Cancelled.",
    sentences: ["The job is given up: workers skip the batches that are left. What is written stays.",
      "A cancelled job stays cancelled. To do the rest later, submit it again with another output."],
  },
};

/** Which deeds make sense in a state. */
export function deedsOf(job) {
  if (job.source === "bucket") return [];
  if (job.state === "paused") return ["resume", "cancel"];
  return active(job) ? ["pause", "cancel"] : [];
}

function stageBars() {
  const list = h("ul", { class: "stages" });
  const sentence = h("p", { class: "advice" });
  const nothing = h("p", { class: "muted" }, "Stage times come with the first finished batches.");
  return {
    element: h("div", null, list, sentence, nothing),
    update(job) {
      const known = STAGES.filter((stage) => Number.isFinite(job.stages?.[stage]));
      const most = Math.max(...known.map((stage) => job.stages[stage]), 1e-9);
      const rows = known.map((stage) => ({ stage, ms: job.stages[stage], share: job.stages[stage] / most, binds: job.binding === stage }));
      keyed(list, rows, (row) => row.stage, ({ stage }) => {
        const bar = h("i");
        const value = h("b");
        const binds = h("span", { class: "binds" });
        const element = h("li", { title: STAGE_MEANS[stage] },
          h("span", { class: "stage-name" }, stage), h("span", { class: "meter" }, bar), value, binds);
        return {
          element,
          update(row) {
            vary(bar, "--share", `${Math.max(0.5, row.share * 100).toFixed(1)}%`);
            text(value, milliseconds(row.ms));
            text(binds, row.binds ? "binds" : "");
            attr(element, "data-binding", row.binds ? "" : null);
          },
        };
      });
      text(sentence, advice(job.binding));
      show(nothing, !known.length);
    },
  };
}

function facts() {
  const list = h("dl", { class: "facts" });
  return {
    element: list,
    update(job) {
      const spec = job.detail?.spec ?? {};
      const rows = [
        ["Model", lastPart(spec.model ?? job.model), spec.model ?? job.model],
        ["Digest", spec.model_sha256 ? middle(spec.model_sha256, 20) : "", spec.model_sha256],
        ["Output", job.out, job.out],
        ...(spec.sources ?? []).slice(0, 5).map((source, index) => [index ? "" : "Sources", source, source]),
        ["", (spec.sources ?? []).length > 5 ? `and ${count(spec.sources.length - 5)} more` : ""],
        ["Queue", job.queue],
        ["Batches of", spec.batch_size ? plural(spec.batch_size, "image") : ""],
        ["Decoding", [spec.decode, spec.truncated && `truncated: ${spec.truncated}`, spec.orient && `orientation: ${spec.orient}`].filter(Boolean).join(", ")],
        ["Precision", spec.precision],
        ["Top", spec.topk ? `${count(spec.topk)} labels` : ""],
        ["Created", job.created_unix_ms ? clock(job.created_unix_ms, time.now()) : ""],
        ["Finished", job.detail?.finished_unix_ms ? `${clock(job.detail.finished_unix_ms, time.now())}, after ${duration((job.detail.finished_unix_ms - job.created_unix_ms) / 1000)}` : ""],
      ].filter(([, value]) => value).map(([name, value, copied]) => ({ name, value: foreign(value), copied }));
      keyed(list, rows, (row) => `${row.name}\n${row.value}`, (row) => ({
        element: h("div", null, h("dt", null, row.name),
          h("dd", null, h("span", { title: row.value }, row.value), row.copied ? copyButton(row.copied, row.name ? row.name.toLowerCase() : "this source") : null)),
      }));
    },
  };
}

function head(job, act) {
  const state = badge();
  const from = bucketMark();
  const buttons = Object.fromEntries(["pause", "resume", "cancel"].map((deed) =>
    [deed, button(DEEDS[deed].action.split(" ")[0], () => act(deed), deed === "cancel" ? "danger-text" : "", { hidden: true })]));
  const element = h("header", { class: "page-head" },
    h("nav", { class: "crumbs", "aria-label": "Where this is" }, h("a", { href: page.jobs() }, "Jobs"), h("span", { "aria-hidden": "true" }, "/")),
    h("h1", null, foreign(job)), copyButton(job, "the job's id"), state.element, from,
    h("div", { class: "page-actions" }, Object.values(buttons), h("a", { class: "button primary", href: page.gallery(job) }, "Gallery")));
  return {
    element, buttons,
    update(found) {
      state.update(found);
      show(from, found.source === "bucket");
      const possible = session.mayWrite ? deedsOf(found) : [];
      for (const [deed, button] of Object.entries(buttons)) show(button, possible.includes(deed));
    },
  };
}

function summary() {
  const share = h("b", { class: "big" }, "–");
  const words = h("span", { class: "big-words" });
  const bar = progress("tall");
  const figures = {
    ok: figure("done", "Images with a prediction"), failed: figure("failed", "Images with an error row"), left: figure("left", "Images not looked at yet"),
    batches: figure("batches"), rate: figure("images/s"), eta: figure("time left"),
  };
  figures.ok.element.dataset.mark = "ok";
  figures.failed.element.dataset.mark = "failed";
  figures.left.element.dataset.mark = "left";
  return {
    element: h("section", { class: "panel summary", "aria-label": "Progress" },
      h("div", { class: "summary-head" }, share, words), bar.element, strip(figures, "flat")),
    update(job) {
      const done = finished(job);
      text(share, percent(done, job.images_planned));
      text(words, `${count(done)} of ${plural(job.images_planned, "image")}` + (job.state === "enqueuing" ? " so far; still listing" : ""));
      bar.update(job);
      figures.ok.update(count(job.images_ok));
      figures.failed.update(count(job.images_failed), job.images_failed > 0 ? "bad" : null);
      figures.left.update(job.images_planned === null ? "–" : count(Math.max(0, job.images_planned - done)));
      figures.batches.update(count(job.batches_done), null, ` of ${count(job.batches_planned)}`);
      const took = job.detail?.finished_unix_ms ? (job.detail.finished_unix_ms - job.created_unix_ms) / 1000 : null;
      figures.rate.update(active(job) ? rate(job.images_per_second) : took > 0 ? rate(done / took) : "–", null, active(job) || !took ? "" : " on average");
      const [main, range] = took !== null ? [duration(took), ""] : eta(job);
      const until = active(job) && job.eta_seconds && !stalled(job) ? `, at ${clock(time.now() + job.eta_seconds * 1000, time.now())}` : "";
      figures.eta.update(main, null, took !== null ? " in all" : range ? `: ${range}${until}` : until);
    },
  };
}

/** Opens the page in `main`. */
export function open(main, context) {
  const { job } = context;
  let found = null;
  let heard = 0;

  const top = head(job, act);
  const problem = notice();
  const warning = notice();
  const whole = summary();
  const chart = rateChart();
  const stages = stageBars();
  const about = facts();
  const flying = inFlight();
  const dead = deadLetters(job, context);
  const errors = errorRows(job);
  const seen = bars("labels", { href: (label) => page.gallery(job, { label }) });
  const missing = emptyPlace();
  const panel = (title, more, element) => h("section", { class: "panel" }, h("header", null, h("h2", null, title), more), element);
  const labels = panel("Most frequent labels", h("a", { href: page.gallery(job) }, "all in the gallery"), seen.element);
  const body = h("div", { class: "job-body" }, whole.element,
    h("div", { class: "two" }, panel("Images per second", null, chart.element), panel("Time for one image", h("span", { class: "muted" }, "by stage"), stages.element)),
    dead.element,
    h("div", { class: "two" }, panel("In flight", flying.note, flying.element), panel("About", null, about.element)),
    labels, errors.element);
  labels.hidden = true;
  replace(main, top.element, problem.element, warning.element, missing.element, body);
  context.title(foreign(job));
  const unwatch = session.watch(() => found && draw());

  async function act(deed) {
    const words = DEEDS[deed];
    if (!(await confirm({ ...words, sentences: [`Job ${foreign(job)}.`, ...words.sentences] }))) return;
    const busy = (state) => { for (const button of Object.values(top.buttons)) button.disabled = state; };
    busy(true);
    try {
      await post(api.jobAction(job, deed));
      context.toast(words.done);
      await context.refresh();
    } catch (error) {
      context.failed(error);
    }
    busy(false);
  }

  function draw() {
    for (const part of [top, whole, stages, about, dead, errors]) part.update(found);
    chart.update(found.rates);
    flying.update(found, Date.now() - heard);
    const known = (found.detail?.labels ?? []).slice(0, 12);
    show(labels, known.length > 0);
    seen.update(known);
    warning.say(stalled(found)
      ? `Nothing has finished for ${age(found.stalled_ms)} while work is left. Is a worker serving the queue? trawl-worker --queue ${shellWord(found.queue)} (see Workers). If the queue was deleted or purged: trawl repair ${shellWord(found.out)}`
      : "", "warn");
    context.title(`${found.state === "running" ? percent(finished(found), found.images_planned) : found.state} · ${foreign(job)}`);
  }

  return {
    topics: [`job:${job}`],
    data(document) {
      found = document;
      heard = Date.now();
      problem.say("");
      missing.say("");
      show(body, true);
      draw();
    },
    error(error) {
      const unknown = error.status === 404 && !found;
      problem.say(unknown ? "" : error.message);
      if (!unknown) return;
      show(body, false);
      missing.say("404", () => empty("No such job", `${foreign(error.message)} A job that Redis has forgotten is found by its output:`, ["trawl status OUT"]));
    },
    tick: () => { if (found) flying.update(found, Date.now() - heard); },
    act: (key) => (key === "g l" ? context.go(page.gallery(job)) : move(body, key)),
    leave() {
      unwatch();
      chart.stop();
      errors.stop();
    },
  };
}
