// The gallery of a job: what the model said about each image, the least sure first. Filters live in the address, so a
// view can be sent to a colleague. Boxes have a fixed shape before their picture comes; pictures are loaded when they
// are near the screen, and pages when the end is.

import { get } from "./api.js";
import { attr, button, h, keyed, replace, s, settle, show, text } from "./dom.js";
import { count, lastPart, percent, plural, probability } from "./format.js";
import { move } from "./keys.js";
import { api, filters as fromQuery, page } from "./links.js";
import { bucketMark, codeTag, empty, emptyPlace, foreign, notice, searchBox, segmented } from "./parts.js";
import { labelBars, view } from "./viewer.js";
import { CODE_NAMES, codeMeans } from "./words.js";

const PAGE = 60;
/** Labels offered while typing; the list of a large model has tens of thousands. */
const OFFERED = 50;
const ORDERS = [["confidence", "least sure first"], ["-confidence", "surest first"], ["plan", "in the order of the plan"]];
const NAMES = ["label", "code", "status", "min", "max", "order"];

function missing() {
  return s("svg", { viewBox: "0 0 40 30", class: "no-picture", "aria-hidden": "true" },
    s("path", { d: "M4 25l9-11 7 8 5-6 11 9M28 10a2.500 2.500 0 1 0 0-.1M3 3l34 24" }));
}

function card(job, row, look) {
  const box = h("span", { class: "thumb" });
  const failed = row.status !== "ok";
  const picture = h("img", { loading: "lazy", decoding: "async", alt: "", src: api.thumbnail(job, row.batch, row.row, 256) });
  picture.addEventListener("error", () => replace(box, missing()));
  box.append(picture);
  const name = lastPart(row.key);
  const item = h("button", { type: "button", class: "card", "data-stop": true, onclick: look, title: foreign(row.key),
    "aria-label": `${foreign(name)}: ${failed ? row.code : `${foreign(row.label)}, ${probability(row.confidence)}`}` },
  box,
  failed ? h("span", { class: "card-failed" }, codeTag(row.code), h("small", null, foreign(row.message))) : labelBars(row),
  h("small", { class: "key" }, foreign(name)));
  return h("li", null, item);
}

/** Opens the page in `main`. */
export function open(main, context) {
  const job = context.job;
  const filter = { order: "confidence", ...fromQuery(location.search, NAMES) };
  if (!ORDERS.some(([order]) => order === filter.order)) filter.order = "confidence";
  let rows = [];
  let cursor = null;
  let ended = false;
  let busy = false;
  let broken = false;
  let round = new AbortController();

  const from = bucketMark();
  const note = h("span", { class: "muted", role: "status" });
  const known = h("datalist", { id: "labels" });
  const search = searchBox("Label", "Any label", filter.label ?? "", 250, (words) => { filter.label = words; changed(); }, { list: "labels" });
  const label = search.input;
  const code = h("select", { "aria-label": "Error code" }, h("option", { value: "" }, "Any code"),
    CODE_NAMES.map((name) => h("option", { value: name, title: codeMeans(name) }, name)));
  code.value = filter.code ?? "";
  const order = h("select", { "aria-label": "Order" }, ORDERS.map(([value, name]) => h("option", { value }, name)));
  order.value = filter.order;
  const number = (name, shown) => h("input", { type: "number", min: 0, max: 100, step: "any", placeholder: shown, "aria-label": `${name} confidence in percent`, inputmode: "decimal" });
  const low = number("Lowest", "0");
  const high = number("Highest", "100");
  const asPercent = (value) => (value === undefined || Number.isNaN(Number(value)) ? "" : String(Number((Number(value) * 100).toFixed(4))));
  low.value = asPercent(filter.min);
  high.value = asPercent(filter.max);
  const status = segmented("Status", [["", "All"], ["ok", "Labelled"], ["error", "Failed"]], (value) => { filter.status = value; changed(); });
  const grid = h("ul", { class: "gallery", "aria-label": "Images" });
  const problem = notice();
  const nothing = emptyPlace();
  const more = button("More", () => load(), "", { hidden: true });
  const foot = h("div", { class: "more" }, more);

  code.addEventListener("change", () => { filter.code = code.value; changed(); });
  order.addEventListener("change", () => { filter.order = order.value; changed(); });
  const range = settle(350, () => {
    const share = (input) => (input.value === "" || !input.validity.valid ? "" : String(Number((input.valueAsNumber / 100).toFixed(6))));
    filter.min = share(low);
    filter.max = share(high);
    changed();
  });
  low.addEventListener("input", range);
  high.addEventListener("input", range);

  replace(main,
    h("header", { class: "page-head" },
      h("nav", { class: "crumbs", "aria-label": "Where this is" }, h("a", { href: page.jobs() }, "Jobs"), h("span", { "aria-hidden": "true" }, "/"),
        h("a", { href: page.job(job) }, foreign(job)), h("span", { "aria-hidden": "true" }, "/")),
      h("h1", null, "Gallery"), from, h("div", { class: "page-actions" }, note, button("Refresh", () => begin()))),
    h("div", { class: "filters gallery-filters" },
      search.element, known, status.element, code, order,
      h("div", { class: "range" }, h("span", null, "Confidence"), low, h("span", null, "to"), high, h("span", null, "%"))),
    problem.element, grid, nothing.element, foot);
  status.update(filter.status ?? "");
  context.title(`Gallery · ${foreign(job)}`);

  // Several changes may come at once, the latest last.
  const watcher = new IntersectionObserver((seen) => { if (seen.at(-1).isIntersecting && rows.length && !broken) load(); }, { rootMargin: "900px" });
  watcher.observe(foot);

  function changed() {
    status.update(filter.status ?? "");
    context.address(page.gallery(job, { ...filter, order: filter.order === "confidence" ? "" : filter.order }));
    begin();
  }

  function begin() {
    round.abort();
    round = new AbortController();
    busy = false;
    cursor = null;
    ended = false;
    attr(grid, "data-old", rows.length ? "" : null);
    load(true);
  }

  async function load(anew = false) {
    if (busy || ended) return;
    busy = true;
    const { signal } = round;
    more.disabled = true;
    text(more, "Loading");
    try {
      const values = { limit: PAGE, cursor, order: filter.order };
      for (const name of NAMES) if (filter[name]) values[name] = filter[name];
      const answer = await get(api.gallery(job, values), signal);
      if (signal.aborted) return;
      broken = false;
      problem.say("");
      take(answer, anew);
    } catch (error) {
      if (signal.aborted) return;
      broken = true;
      problem.say(error.message);
      if (anew && !rows.length) replace(grid);
    } finally {
      if (!signal.aborted) {
        busy = false;
        more.disabled = false;
        text(more, broken ? "Try again" : "More");
        show(more, !ended && (broken || rows.length > 0));
        attr(grid, "data-old", null);
        // An observer tells of changes only, and the foot may be where it was: the page is short, or was scrolled meanwhile.
        // What is observed anew is told of once.
        watcher.unobserve(foot);
        if (!ended) watcher.observe(foot);
      }
    }
  }

  function take(answer, anew) {
    if (anew) {
      rows = [];
      replace(grid);
    }
    const first = rows.length;
    rows.push(...answer.rows);
    grid.append(...answer.rows.map((row, index) => card(job, row, () => look(first + index))));
    cursor = answer.cursor;
    ended = !cursor;
    text(note, answer.complete ? plural(answer.total_rows, "row") : `the first ${count(answer.indexed_rows)} of ${plural(answer.total_rows, "row")} (${percent(answer.indexed_rows, answer.total_rows)}) were looked at`);
    const filtered = NAMES.some((name) => name !== "order" && filter[name]);
    nothing.say(rows.length ? "" : `${filtered} ${answer.complete}`, () => (filtered
      ? empty("No image fits the filter", answer.complete ? "" : "Only the rows named above were looked at; later ones may fit.", [], ["Clear the filter", clear])
      : empty("No results yet", "Images appear here as soon as the first batch is written. Is a worker running?", ["trawl-worker --queue default"])));
  }

  function clear() {
    for (const name of NAMES) if (name !== "order") delete filter[name];
    for (const input of [label, low, high, code]) input.value = "";
    changed();
  }

  function look(at) {
    view({
      job, at, rows: () => rows, mayGrow: () => !ended,
      grow: () => load(),
      leave: (index) => grid.children[index]?.querySelector("button")?.focus(),
    });
  }

  begin();

  return {
    topics: [`job:${job}`],
    data(found) {
      show(from, found.source === "bucket");
      const offered = (found.detail?.labels ?? []).slice(0, OFFERED);
      keyed(known, offered, ([name]) => name, ([name]) => ({ element: h("option", { value: name }) }));
    },
    error: (error) => { if (!rows.length) problem.say(error.message); },
    act(key, target) {
      if (search.act(key, target)) return true;
      if (key === "g o") return context.go(page.job(job));
      const columns = getComputedStyle(grid).gridTemplateColumns.split(" ").length;
      return move(grid, key, Math.max(2, columns));
    },
    leave() {
      round.abort();
      watcher.disconnect();
    },
  };
}
