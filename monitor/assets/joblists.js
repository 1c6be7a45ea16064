// The lists on a job's page: batches in flight, dead letters with their buttons, rows that failed with their reasons.

import { get, post, session } from "./api.js";
import { confirm } from "./dialogs.js";
import { attr, button, h, replace, show, text } from "./dom.js";
import { age, clock, count, plural, shellWord } from "./format.js";
import { api, page } from "./links.js";
import { bars, codeTag, command, copyButton, foreign, notice, table, time } from "./parts.js";
import { byCount, codeMeans } from "./words.js";

/** A batch that is worked on for longer than this deserves a look: a tenth of RabbitMQ's consumer timeout. */
const LONG_MS = 180_000;
const ROWS = 25;

const panel = (className, header, ...content) => h("section", { class: `panel ${className}`, hidden: true }, h("header", null, header), content);

/** Batches that workers hold. `update(job, sinceHeardMs)`. */
export function inFlight() {
  let since = 0;
  const list = table("Batches in flight", "tight", [
    { name: "Batch", text: (row) => count(row.batch) },
    {
      name: "Worker",
      live() {
        const link = h("a");
        return { element: link, update(row) { text(link, foreign(row.worker)); attr(link, "href", page.workers({ q: row.worker })); } };
      },
    },
    { name: "Images", class: "n", text: (row) => count(row.images) },
    { name: "For", class: "n", text: (row) => age(row.age_ms + since), kind: (row) => (row.age_ms + since > LONG_MS ? "warn" : null) },
  ], (row) => `${row.batch} ${row.worker}`);
  const note = h("span", { class: "muted" });
  const nothing = h("p", { class: "muted" });
  return {
    note,
    element: h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Batches in flight" }, list.element, nothing),
    update(job, sinceHeardMs) {
      since = sinceHeardMs;
      const rows = job.detail?.in_flight ?? [];
      const retries = job.detail?.retries;
      text(note, plural(rows.length, "batch", "batches") + (retries == null ? "" : `, ${count(retries)} waiting to be tried again`));
      text(nothing, rows.length ? "" : job.state === "running" ? "No worker holds a batch of this job right now." : `The job is ${job.state}.`);
      list.update(rows);
    },
  };
}

/** Messages of this job that were given up. */
export function deadLetters(job, context) {
  let rows = [];
  const named = (letter) => (letter.batch == null ? "this message" : `batch ${count(letter.batch)}`);

  async function ask(address, words, done) {
    if (!(await confirm(words))) return;
    try {
      await post(address);
      context.toast(done);
      await context.refresh();
    } catch (error) {
      context.failed(error);
    }
  }

  const retryAll = () => ask(api.deadRetryAll(job), {
    title: `Retry ${plural(rows.length, "dead letter")}?`, action: "Retry all",
    sentences: ["They go back to their queue as new work. Batches whose part is there already are not computed again."],
  }, "All sent back.");
  const retry = (letter) => ask(api.dead(job, letter.id, "retry"), {
    title: `Retry ${named(letter)}?`, action: "Retry", sentences: ["It goes back to its queue as new work, with its attempts counted from the start."],
  }, `Sent ${named(letter)} back.`);
  const drop = (letter) => ask(api.dead(job, letter.id, "drop"), {
    title: `Drop ${named(letter)}?`, action: "Drop it", kind: "danger",
    sentences: ["The message is removed for good, and its images get no rows. Only a repair enqueues them again: trawl repair OUT"],
  }, `Dropped ${named(letter)}.`);

  const all = button("Retry all", retryAll, "small");
  const title = h("h2");
  const list = table("Dead letters", "dead", [
    { name: "Batch", text: (letter) => count(letter.batch) },
    { name: "Reason", class: "c-reason", text: (letter) => foreign(letter.reason), small: (letter) => (letter.last_error === letter.reason ? "" : foreign(letter.last_error)) },
    { name: "Attempts", class: "n", text: (letter) => count(letter.attempts) },
    { name: "Worker", text: (letter) => foreign(letter.worker) || "–" },
    {
      name: "Died", class: "n", text: (letter) => (letter.died_unix_ms ? `${age(time.now() - letter.died_unix_ms)} ago` : "–"),
      hint: (letter) => (letter.died_unix_ms ? clock(letter.died_unix_ms, time.now()) : null),
    },
    {
      name: "", class: "c-actions",
      live() {
        let letter = null;
        const element = h("div", { class: "row-actions" },
          button("Retry", () => retry(letter), "small"),
          button("Drop", () => drop(letter), "small danger-text"));
        return { element, update(now) { letter = now; show(element, session.mayWrite); } };
      },
    },
  ], (letter) => letter.id);
  const element = panel("attention", [title, h("span", { class: "muted" }, "given up after their attempts; they wait for a decision"), all], list.element);

  return {
    element,
    update(found) {
      rows = found.detail?.dead ?? [];
      show(element, rows.length > 0);
      text(title, plural(rows.length, "dead letter"));
      show(all, session.mayWrite && rows.length > 1);
      list.update(rows);
    },
  };
}

const keyCell = () => {
  const key = h("span", { class: "key" });
  const copy = h("span");
  return {
    element: [key, copy],
    update(row) {
      text(key, foreign(row.key));
      replace(copy, copyButton(row.key, "the key"));
    },
  };
};

/** Images that failed: a bar a code, which filters, and rows with reasons, loaded page by page. */
export function errorRows(job) {
  const chips = bars("codes", { means: codeMeans, click(name) { code = code === name ? "" : name; load(true); chips.update(errors, code); } });
  const note = h("span", { class: "muted" });
  const list = table("Images that failed", "errors", [
    { name: "Code", class: "c-code", live: () => { const element = h("span"); return { element, update: (row) => replace(element, codeTag(row.code)) }; } },
    { name: "Image", class: "c-key", live: keyCell },
    { name: "Reason", class: "c-reason", text: (row) => foreign(row.message) },
    { name: "Batch", class: "n", text: (row) => count(row.batch) },
  ], (row) => `${row.batch}/${row.row}`);
  const more = button("More", () => load(false), "", { hidden: true });
  const fresh = button("Show new failures", () => load(true), "", { hidden: true });
  const problem = notice();
  const hint = h("p", { class: "hint" });
  const element = panel("", [h("h2", null, "Failed images"), note, fresh], chips.element, problem.element, list.element, h("div", { class: "more" }, more), hint);
  let code = "";
  let cursor = null;
  let rows = [];
  let errors = [];
  let known = -1;
  let failed = 0;
  let round = new AbortController();

  async function load(anew) {
    round.abort();
    round = new AbortController();
    const { signal } = round;
    more.disabled = true;
    if (anew) known = failed;
    try {
      const answer = await get(api.failures(job, { limit: ROWS, cursor: anew ? null : cursor, code }), signal);
      if (signal.aborted) return;
      rows = anew ? answer.rows : rows.concat(answer.rows);
      cursor = answer.cursor;
      problem.say(rows.length ? "" : "No rows yet: a failure is shown when the part of its batch is written.", "warn");
      list.update(rows, false);
      show(more, Boolean(cursor));
      show(fresh, false);
    } catch (error) {
      if (!signal.aborted) problem.say(error.message);
    } finally {
      more.disabled = false;
    }
  }

  return {
    element,
    stop: () => round.abort(),
    update(found) {
      errors = byCount(found.errors);
      failed = found.images_failed ?? 0;
      show(element, failed > 0 || errors.length > 0);
      if (element.hidden) return;
      text(note, `${plural(failed, "image")}; each has a row with its reason in the output`);
      chips.update(errors, code);
      if (!hint.firstChild) replace(hint, "All of them, in a terminal: ", command(`trawl failures ${shellWord(found.out)}`));
      if (known < 0) load(true);
      else show(fresh, failed > known && !more.disabled);
    },
  };
}
