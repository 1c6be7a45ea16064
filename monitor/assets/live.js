// Keeps a page up to date: server-sent events, and polling while they fail. Knows when what is shown is old. Tells
// the page what came and how the line is; it never touches the page itself and never throws data away.
//
// Browsers allow six connections to a host over HTTP/1.1, over all tabs: a hidden tab gives its stream back.

import { get } from "./api.js";
import { api, topicAddress } from "./links.js";

const POLL_MS = 2_000;
const POLL_SLOW_MS = 10_000;
const REOPEN_MS = [2_000, 4_000, 8_000, 15_000, 30_000];
/** Nothing came for so long: ask once, the stream may be dead without saying so. */
const SILENCE_MS = 25_000;
const HIDDEN_MS = 30_000;
/** Documents kept for going back without waiting. */
const KEPT = 24;

/** `on.data(topic, document)`, `on.error(topic, error)`, `on.state(state)`: connecting, live, polling or offline. */
export class Live {
  #on;
  #topics = [];
  #source = null;
  #state = "";
  #last = new Map();
  #seen = new Map();
  #heard = 0;
  #attempt = 0;
  #timers = {};
  #round = new AbortController();

  constructor(on) {
    this.#on = on;
    document.addEventListener("visibilitychange", () => {
      clearTimeout(this.#timers.hidden);
      if (document.hidden) this.#timers.hidden = setTimeout(() => this.#close(), HIDDEN_MS);
      else if (!this.#source && this.#topics.length) this.#open();
    });
    addEventListener("online", () => this.#open());
    // A page that the browser keeps for going back would keep its stream too, and six of them are all there are.
    addEventListener("pagehide", () => this.#close());
    addEventListener("pageshow", (event) => { if (event.persisted) this.#open(); });
    setInterval(() => this.#watchdog(), 5_000);
  }

  /** What was last heard of a topic. */
  last(topic) {
    return this.#last.get(topic);
  }

  /** When anything was last heard, by this machine's clock. */
  get heard() {
    return this.#heard;
  }

  /** Follows these topics instead of those before. */
  watch(topics) {
    this.#topics = topics;
    this.#open();
  }

  /** Asks for everything now. */
  async refresh() {
    await this.#pull();
  }

  #open() {
    this.#close();
    if (!this.#topics.length) return;
    if (!this.#state) this.#set("connecting");
    this.#round = new AbortController();
    const source = new EventSource(api.events(this.#topics));
    this.#source = source;
    source.onopen = () => {
      this.#attempt = 0;
      clearTimeout(this.#timers.poll);
      this.#heard = Date.now();
      this.#set("live");
    };
    source.onerror = () => this.#broken(source);
    for (const topic of this.#topics) {
      source.addEventListener(topic.split(":")[0], (event) => {
        try {
          this.#take(topic, JSON.parse(event.data), false);
        } catch {
          this.#pull();
        }
      });
    }
    this.#pull();
  }

  #close() {
    for (const name of ["poll", "reopen"]) clearTimeout(this.#timers[name]);
    this.#round.abort();
    if (this.#source) {
      this.#source.onerror = null;
      this.#source.close();
    }
    this.#source = null;
  }

  #broken(source) {
    if (source !== this.#source) return;
    if (this.#state === "live") this.#set("connecting");
    clearTimeout(this.#timers.poll);
    this.#timers.poll = setTimeout(() => this.#poll(), 500);
    if (source.readyState !== EventSource.CLOSED) return;
    const wait = REOPEN_MS[Math.min(this.#attempt++, REOPEN_MS.length - 1)];
    clearTimeout(this.#timers.reopen);
    this.#timers.reopen = setTimeout(() => this.#open(), wait * (0.8 + Math.random() * 0.4));
  }

  async #poll() {
    const source = this.#source;
    if (!source || source.readyState === EventSource.OPEN) return;
    const reached = await this.#pull();
    if (source !== this.#source || source.readyState === EventSource.OPEN) return;
    this.#set(reached ? "polling" : "offline");
    this.#timers.poll = setTimeout(() => this.#poll(), reached ? POLL_MS : POLL_SLOW_MS / 2);
  }

  /** Reads all topics once. Whether the monitor answered at all, be it with an error. */
  async #pull() {
    const { signal } = this.#round;
    const began = Date.now();
    const answers = await Promise.all(this.#topics.map(async (topic) => {
      try {
        const found = await get(topicAddress(topic), signal);
        // An event that came meanwhile is newer.
        if (!signal.aborted && (topic === "overview" || !(this.#seen.get(topic) > began))) this.#take(topic, found, true);
        return true;
      } catch (error) {
        if (signal.aborted) return true;
        this.#on.error(topic, error);
        return error.status > 0;
      }
    }));
    return answers.some(Boolean);
  }

  #take(topic, found, asked) {
    this.#heard = Date.now();
    this.#seen.set(topic, this.#heard);
    this.#last.delete(topic);
    this.#last.set(topic, found);
    if (this.#last.size > KEPT) this.#last.delete(this.#last.keys().next().value);
    this.#on.data(topic, found, asked);
  }

  async #watchdog() {
    if (document.hidden || !this.#source || this.#state !== "live") return;
    if (Date.now() - this.#heard < SILENCE_MS) return;
    this.#heard = Date.now();
    if (!(await this.#pull())) this.#open();
  }

  #set(state) {
    if (this.#state === state) return;
    this.#state = state;
    this.#on.state(state);
  }
}
