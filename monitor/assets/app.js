// Starts the page: routes by path, feeds the view from the live line, hands keys to it. One view is open at a time; it
// gives back what it holds when it is left.

import { session } from "./api.js";
import { help, signIn } from "./dialogs.js";
import { h, replace } from "./dom.js";
import { listen } from "./keys.js";
import { filters, page, route } from "./links.js";
import { Live } from "./live.js";
import { empty, time } from "./parts.js";
import * as shell from "./shell.js";

// Loaded when they are opened: no page costs what only the others need.
const PAGES = {
  jobs: () => import("./jobs.js"),
  job: () => import("./job.js"),
  gallery: () => import("./gallery.js"),
  workers: () => import("./workers.js"),
  queues: () => import("./queues.js"),
};
const main = document.getElementById("main");

let view = null;
let round = new AbortController();

const live = new Live({
  data(topic, found, asked) {
    if (topic === "overview") {
      time.set(found.now_unix_ms);
      if (asked) session.learn(found);
      shell.overview(found);
    }
    give(topic, found);
  },
  error(topic, error) {
    // Without an answer the shell says so; what is shown stays.
    if (error.status && view?.topics.includes(topic)) guarded(() => view.error?.(error));
  },
  state: (state) => shell.line(state),
});

function give(topic, found) {
  if (topic === "overview") guarded(() => view?.overview?.(found));
  else if (view?.topics.includes(topic)) guarded(() => view.data(found));
}

/** An error in drawing must not stop what comes after it. */
function guarded(call) {
  try {
    call();
  } catch (error) {
    console.error(error);
  }
}

function go(address) {
  const url = new URL(address, location.href);
  if (url.pathname + url.search === location.pathname + location.search) return true;
  history.replaceState({ scroll: scrollY }, "");
  history.pushState(null, "", url.pathname + url.search);
  draw().then(() => scrollTo(0, 0));
  return true;
}

async function draw() {
  guarded(() => view?.leave?.());
  view = null;
  round.abort();
  round = new AbortController();
  const { signal } = round;
  const place = route(location.pathname);
  shell.tab(place.page);
  const load = PAGES[place.page];
  if (!load) {
    document.title = "Not found · trawl";
    replace(main, h("h1", { class: "sr" }, "Not found"), empty("There is no such page", "Jobs, workers and queues are all there is."));
    live.watch(["overview"]);
    return;
  }
  let opened;
  try {
    opened = await load();
  } catch {
    if (signal.aborted) return;
    replace(main, empty("This page could not be loaded", "The monitor does not answer, or was updated meanwhile.", [], ["Load anew", () => location.reload()]));
    return;
  }
  // Somebody went on while it was loading.
  if (signal.aborted) return;
  view = opened.open(main, {
    job: place.job,
    filters: filters(location.search, ["q", "state"]),
    signal,
    go,
    address: (address) => history.replaceState(history.state, "", address),
    refresh: () => live.refresh(),
    toast: shell.toast,
    title: (words) => { document.title = `${words} · trawl`; },
    failed(error) {
      shell.toast(error.message, "bad");
      if ((error.status === 401 || error.status === 403) && !session.mayWrite) signIn();
    },
  });
  // What was last heard is shown at once; the line brings what is newer.
  const topics = ["overview", ...view.topics];
  for (const topic of topics) {
    const known = live.last(topic);
    if (known) give(topic, known);
  }
  live.watch(topics);
}

document.addEventListener("click", (event) => {
  const link = event.target.closest?.("a[href]");
  if (!link || event.defaultPrevented || event.button !== 0 || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
  const url = new URL(link.href, location.href);
  if (url.origin !== location.origin || link.target || url.hash || url.pathname.startsWith("/assets/") || url.pathname.startsWith("/api/")) return;
  event.preventDefault();
  go(url.pathname + url.search);
  main.focus({ preventScroll: true });
});

addEventListener("popstate", (event) => {
  draw().then(() => scrollTo(0, event.state?.scroll ?? 0));
});

const CHORDS = { "g j": page.jobs(), "g w": page.workers(), "g q": page.queues() };

listen((key, target) => {
  if (CHORDS[key]) return go(CHORDS[key]);
  if (key === "?") help();
  else if (key === "t") shell.toggleTheme();
  else return Boolean(view?.act?.(key, target));
  return true;
});

shell.start(() => live.heard);
setInterval(() => guarded(() => view?.tick?.()), 1000);
draw();
