// Parts that more than one page is built of: badges, progress, sparklines, tables, search, notices, empty states. Each
// gives its element and, where it lives, an `update`.

import { ICONS, attr, button, h, icon, keyed, replace, s, settle, show, text, vary } from "./dom.js";
import { age, compact, count, duration, durationRange, visible } from "./format.js";
import { barShares, linePath, linear, thin } from "./scale.js";
import { codeMeans } from "./words.js";

/** The monitor's clock: ages are counted by it, whatever this machine's clock says. */
export const time = {
  offset: 0,
  set: (nowUnixMs) => { if (Number.isFinite(nowUnixMs)) time.offset = nowUnixMs - Date.now(); },
  now: () => Date.now() + time.offset,
};

/** Somebody else's text: as it is, with characters made visible that would not be seen. */
export const foreign = (value) => visible(value ?? "");

/** Whether work of a job goes on. */
export const active = (job) => job.state === "running" || job.state === "enqueuing";

const stalled = (job) => job.state === "running" && job.stalled_ms != null;
const finished = (job) => (job.images_ok ?? 0) + (job.images_failed ?? 0);
export { finished, stalled };

/** A state with its mark. */
export function badge() {
  const element = h("span", { class: "badge" });
  return {
    element,
    update(job) {
      attr(element, "data-state", stalled(job) ? "stalled" : job.state);
      text(element, stalled(job) ? `stalled ${age(job.stalled_ms)}` : job.state);
    },
  };
}

/** Marks a job that only its output knows. */
export function bucketMark() {
  return h("span", { class: "tag", hidden: true, title: "Redis does not know this job: these figures were read from its output" }, "from the bucket");
}

/** A progress bar: done, failed, the rest. */
export function progress(className = "") {
  const ok = h("i", { class: "bar-ok" });
  const failed = h("i", { class: "bar-failed" });
  const element = h("div", { class: `bar ${className}`, role: "progressbar", "aria-valuemin": 0, "aria-valuemax": 100 }, ok, failed);
  return {
    element,
    update(job) {
      const shares = barShares(job.images_ok, job.images_failed, job.images_planned);
      vary(ok, "--share", shares.ok.toFixed(2) + "%");
      vary(failed, "--share", shares.failed.toFixed(2) + "%");
      attr(element, "aria-valuenow", job.images_planned > 0 ? Math.floor((finished(job) / job.images_planned) * 100) : 0);
      attr(element, "aria-valuetext", `${count(job.images_ok)} done and ${count(job.images_failed)} failed of ${count(job.images_planned)} images`);
      attr(element, "data-state", job.state);
    },
  };
}

/** A small picture of the recent rates, beside the figure and hidden from screen readers. */
export function sparkline(width = 96, height = 24) {
  const area = s("path", { class: "spark-area" });
  const line = s("path", { class: "spark-line" });
  return {
    element: s("svg", { class: "spark", viewBox: `0 0 ${width} ${height}`, width, height, "aria-hidden": "true" }, area, line),
    update(rates) {
      const points = thin(rates ?? [], 40);
      const some = points.length > 1;
      const path = some && linePath(points, linear(points[0][0], points.at(-1)[0], 0, width),
        linear(0, Math.max(1e-9, ...points.map((point) => point[1])), height - 1, 2));
      attr(line, "d", path);
      attr(area, "d", some && `${path}L${width} ${height}L0 ${height}Z`);
    },
  };
}

/** How much longer, in words: `[main, detail]`. */
export function eta(job) {
  if (job.state === "complete") return ["done", ""];
  if (!active(job)) return [job.state, ""];
  if (stalled(job)) return ["stalled", "nothing finishes"];
  if (job.state === "running" && finished(job) >= job.images_planned) return ["finishing", "writing manifest"];
  if (job.eta_seconds == null) return ["not known yet", job.state === "enqueuing" ? "still listing" : ""];
  return [duration(job.eta_seconds), durationRange(job.eta_low_seconds, job.eta_high_seconds)];
}

/** A button that copies a text and says so. */
export function copyButton(value, what) {
  const word = h("span", { class: "copied", "aria-live": "polite" });
  return h("button", {
    type: "button", class: "copy", "aria-label": `Copy ${what}`, title: `Copy ${what}`,
    async onclick() {
      word.textContent = await navigator.clipboard.writeText(value).then(() => "copied", () => "not allowed");
      setTimeout(() => { word.textContent = ""; }, 1500);
    },
  }, icon(ICONS.copy), word);
}

/** A command to type, with its copy button. */
export function command(line) {
  return h("span", { class: "command" }, h("code", null, line), copyButton(line, "the command"));
}

function cell(column) {
  const element = h("td", { role: "cell", class: column.class, "data-label": column.name });
  if (column.live) {
    const live = column.live();
    element.append(...[live.element].flat());
    return { element, update: live.update };
  }
  const main = h("span");
  const small = column.small ? h("small") : "";
  element.append(main, small);
  return {
    element,
    update(item) {
      text(main, column.text(item));
      attr(main, "data-kind", column.kind?.(item));
      attr(element, "title", column.hint?.(item));
      if (small) text(small, column.small(item));
    },
  };
}

/**
 * A live table. A column is `{name, class, title}` and either `text(item)` with, if wanted, `small`, `kind` and `hint`,
 * or `live()`, which gives `{element, update(item)}`. On a phone rows become cards: the roles say what they were.
 */
export function table(label, className, columns, keyOf, stateOf = () => null) {
  const body = h("tbody", { role: "rowgroup" });
  const element = h("table", { class: className === "tight" ? className : `cards ${className}`, role: "table", "aria-label": label },
    h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, columns.map((column) =>
      h("th", { role: "columnheader", scope: "col", class: column.class, title: column.title }, column.name)))), body);
  let anew = true;
  const row = () => {
    const cells = columns.map(cell);
    const line = h("tr", { role: "row" }, cells.map((one) => one.element));
    let last = null;
    return {
      element: line,
      update(item) {
        if (item === last && !anew) return;
        last = item;
        attr(line, "data-state", stateOf(item));
        for (const one of cells) one.update(item);
      },
    };
  };
  return {
    element, body,
    /** `ages`: also rows whose item is the very same are written anew. */
    update(items, ages = true) {
      anew = ages;
      keyed(body, items, keyOf, row);
      show(element, items.length > 0);
    },
    /** Grey rows where the table will be, so that nothing jumps when it comes. */
    skeleton(rows) {
      replace(body, Array.from({ length: rows }, () =>
        h("tr", { class: "skeleton", "aria-hidden": "true" }, columns.map(() => h("td", null, h("span"))))));
    },
  };
}

/** A search box that `/` goes to and Esc clears, then leaves. `call(words)` is told after a pause. */
export function searchBox(label, placeholder, value, pause, call, extra = {}) {
  const input = h("input", { type: "search", class: "filter", "aria-label": label, placeholder, value, "aria-keyshortcuts": "/", spellcheck: "false", autocomplete: "off", ...extra });
  const told = settle(pause, () => call(input.value.trim()));
  input.addEventListener("input", told);
  return {
    input,
    element: h("div", { class: "filter-box" }, input, h("kbd", { "aria-hidden": "true" }, "/")),
    act(key, target) {
      if (key === "/") input.select();
      else if (key !== "Escape" || target !== input) return false;
      else if (input.value) call((input.value = ""));
      else input.blur();
      return true;
    },
  };
}

/** Bars with names and counts, the most first. `href(name)` or `click(name)` makes them filters. */
export function bars(className, { href, click, means }) {
  const element = h("ul", { class: `bars ${className}` });
  return {
    element,
    update(rows, chosen) {
      const most = rows[0]?.[1] || 1;
      keyed(element, rows, ([name]) => name, ([name]) => {
        const bar = h("i");
        const n = h("b");
        const inner = [bar, h("span", null, foreign(name)), n, means ? h("small", null, means(name)) : null];
        const item = href ? h("a", { href: href(name) }, inner) : h("button", { type: "button", title: means?.(name), onclick: () => click(name) }, inner);
        return {
          element: h("li", null, item),
          update([, value]) {
            vary(bar, "--share", `${((value / most) * 100).toFixed(1)}%`);
            text(n, count(value));
            if (click) attr(item, "aria-pressed", String(name === chosen));
          },
        };
      });
    },
  };
}

/** An error code with its meaning. */
export const codeTag = (code) => h("span", { class: "code", title: codeMeans(code) }, foreign(code));

/** What to say where there is nothing: a title, a sentence, commands to run, a button. */
export function empty(title, sentence, commands = [], way = null) {
  return h("div", { class: "empty" }, h("h2", null, title), sentence ? h("p", null, sentence) : null, commands.map(command),
    way && button(...way));
}

/** A place for `empty`, drawn only when its reason changes. */
export function emptyPlace() {
  const element = h("div", { hidden: true });
  let last = "";
  return {
    element,
    say(why, make) {
      show(element, Boolean(why));
      if (why && why !== last) replace(element, make());
      last = why;
    },
  };
}

/** One line about something that went wrong, with a way on. */
export function notice() {
  const element = h("p", { class: "notice", role: "status", hidden: true });
  return {
    element,
    say(message, kind = "bad") {
      attr(element, "data-kind", kind);
      text(element, message);
      show(element, Boolean(message));
    },
  };
}

/** A figure with its name below; with `href` it leads to the page that says more. */
export function figure(name, title, href = null) {
  const value = h("b", null, "–");
  const detail = h("small");
  const element = h(href ? "a" : "div", { class: "figure", title, href }, value, h("span", null, name, detail));
  return {
    element,
    update(shown, kind = null, more = "") {
      text(value, shown);
      text(detail, more);
      attr(element, "data-kind", kind);
    },
  };
}

/** A strip of figures. */
export function strip(figures, className = "") {
  return h("section", { class: `figures ${className}`, "aria-label": "Figures" }, Object.values(figures).map((one) => one.element));
}

/** Choices side by side, one pressed. `choose(value)` is called on a click. */
export function segmented(label, choices, choose) {
  const buttons = choices.map(([value, name]) => {
    const n = h("small");
    return { value, n, item: h("button", { type: "button", onclick: () => choose(value) }, name, n) };
  });
  return {
    element: h("div", { class: "segmented", role: "group", "aria-label": label }, buttons.map(({ item }) => item)),
    update(chosen, counts = {}) {
      for (const { value, item, n } of buttons) {
        attr(item, "aria-pressed", String(value === chosen));
        text(n, counts[value] == null ? "" : compact(counts[value]));
      }
    },
  };
}
