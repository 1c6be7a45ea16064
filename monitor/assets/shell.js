// What surrounds every page: tabs, services, the state of the line, theme, sign-in, banners, short messages. It says
// when what is shown is old, and greys it; it never hides it.

import { session } from "./api.js";
import { help, signIn } from "./dialogs.js";
import { attr, h, keyed, text } from "./dom.js";
import { age } from "./format.js";
import { SERVICE_AWAY, SERVICE_NAMES } from "./words.js";
import { foreign } from "./parts.js";

const TOAST_MS = 6_000;
/** A line that breaks and mends within this time is nobody's business. */
const STALE_MS = 4_000;
const LINK_WORDS = { connecting: "Reconnecting", live: "Live", polling: "Polling", offline: "Offline" };
const LINK_MEANS = {
  connecting: "The event stream is being opened",
  live: "Figures come as they change",
  polling: "The event stream is broken; figures are asked for every two seconds",
  offline: "The monitor does not answer; what is shown is the last that was heard",
};

const at = (id) => document.getElementById(id);

let link = "connecting";
let services = {};
let lastHeard = () => 0;

/** Wires the header. `heard()` is when anything last came. */
export function start(heard) {
  lastHeard = heard;
  at("theme").addEventListener("click", toggleTheme);
  at("keys").addEventListener("click", help);
  at("sign-in").addEventListener("click", signIn);
  session.watch(showSession);
  setInterval(check, 1000);
}

/** The overview, from any source. */
export function overview(found) {
  services = found.services ?? {};
  for (const item of at("services").children) {
    const state = services[item.dataset.service];
    attr(item, "data-ok", state ? String(Boolean(state.ok)) : null);
    const name = SERVICE_NAMES[item.dataset.service];
    attr(item, "title", !state ? `${name}: not known yet` : state.ok ? `${name} answers` : `${name} is away: ${foreign(state.reason)}`);
  }
  check();
}

/** How the line is. */
export function line(state) {
  link = state;
  const mark = at("link");
  // The very first connection is no "re"connection.
  text(mark.firstElementChild, state === "connecting" && !lastHeard() ? "Connecting" : LINK_WORDS[state]);
  attr(mark, "data-state", state);
  attr(mark, "title", LINK_MEANS[state]);
  check();
}

/** Marks the tab of a page. */
export function tab(page) {
  const owner = page === "job" || page === "gallery" ? "jobs" : page;
  for (const tabLink of document.querySelectorAll(".tabs a")) {
    attr(tabLink, "aria-current", tabLink.dataset.page === owner ? "page" : null);
  }
}

function check() {
  const silent = lastHeard() ? Date.now() - lastHeard() : 0;
  const stale = (link === "offline" || link === "connecting") && silent > STALE_MS;
  document.body.classList.toggle("stale", stale);
  const banners = Object.entries(services)
    .filter(([, state]) => state && !state.ok)
    .map(([name, state]) => ({ key: name, kind: name === "management" ? "warn" : "bad",
      title: `${SERVICE_NAMES[name] ?? name} is away`, reason: state.reason, next: SERVICE_AWAY[name] ?? "" }));
  if (stale) {
    banners.unshift({ key: "line", kind: "bad", title: "The monitor does not answer", reason: "",
      next: `What is shown is ${age(silent)} old. Trying again by itself; is trawl-monitor running?` });
  }
  // On the page of queues the management API is explained where it matters, elsewhere its dot is enough.
  keyed(at("banners"), banners.filter((banner) => banner.key !== "management"), (banner) => banner.key, () => {
    const title = h("b");
    const reason = h("span", { class: "reason" });
    const next = h("span");
    const element = h("div", { class: "banner" }, h("p", null, title, " ", reason, " ", next));
    return {
      element,
      update(banner) {
        attr(element, "data-kind", banner.kind);
        text(title, banner.title + (banner.reason ? ":" : "."));
        text(reason, banner.reason ? foreign(banner.reason) + "." : "");
        text(next, banner.next);
      },
    };
  });
}

function showSession() {
  const button = at("sign-in");
  attr(button, "data-wait", session.known ? null : "");
  text(button, session.mayWrite ? "Signed in" : session.readOnly ? "Read-only" : "Sign in");
  document.body.classList.toggle("may-write", session.mayWrite);
}

/** Light, dark. Remembered; the first press leaves the system's choice. */
export function toggleTheme() {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  try {
    localStorage.setItem("trawl.theme", root.dataset.theme);
  } catch {
    // Then it holds for this page.
  }
}

/** A short message that goes by itself; `kind` is "good" or "bad". */
export function toast(message, kind = "good") {
  const element = h("div", { class: "toast", "data-kind": kind }, message,
    h("button", { type: "button", class: "plain", "aria-label": "Dismiss", onclick: () => element.remove() }, "×"));
  at("toasts").append(element);
  setTimeout(() => element.remove(), kind === "bad" ? TOAST_MS * 2 : TOAST_MS);
}
