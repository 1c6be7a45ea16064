// Talks to the monitor: reads, writes, the session. Errors come out as ApiError with words for people. The session's
// secret is a cookie this page cannot read; the CSRF value is held in memory only.

import { api } from "./links.js";

/** Longer than any answer of a healthy monitor; a dead connection must not hold a page for minutes. */
const TIMEOUT_MS = 20_000;

/** An answer that is no success, or none at all (status 0). */
export class ApiError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

async function ask(address, options, signal) {
  const limit = AbortSignal.timeout(TIMEOUT_MS);
  let response;
  try {
    response = await fetch(address, {
      credentials: "same-origin",
      ...options,
      headers: { accept: "application/json", ...options.headers },
      signal: signal ? AbortSignal.any([signal, limit]) : limit,
    });
  } catch (error) {
    if (signal?.aborted) throw error;
    const why = limit.aborted ? `did not answer within ${TIMEOUT_MS / 1000} s` : "cannot be reached";
    throw new ApiError(0, `The monitor ${why}. Is trawl-monitor running?`);
  }
  let body = null;
  try {
    body = await response.json();
  } catch {
    // Judged below: a proxy may answer with anything.
  }
  if (response.ok && body !== null) return body;
  const said = body && typeof body.error === "string" ? body.error : "";
  throw new ApiError(response.status, said || `The monitor answered with status ${response.status} and no reason; its log says more.`);
}

/** GET, JSON. */
export function get(address, signal) {
  return ask(address, { method: "GET" }, signal);
}

/** What this page may do. `watch` is called whenever that changes. */
export const session = {
  csrf: null,
  readOnly: false,
  known: false,
  watchers: new Set(),

  get mayWrite() {
    return this.csrf !== null;
  },

  watch(call) {
    this.watchers.add(call);
    return () => this.watchers.delete(call);
  },

  set(csrf, readOnly) {
    const changed = !this.known || csrf !== this.csrf || readOnly !== this.readOnly;
    this.csrf = csrf;
    this.readOnly = readOnly;
    this.known = true;
    if (changed) for (const call of [...this.watchers]) call();
  },

  /** Takes an overview that was read by GET; events are for all listeners and say nothing about this session. */
  learn(overview) {
    this.set(typeof overview.csrf === "string" && overview.csrf ? overview.csrf : null, Boolean(overview.read_only));
  },
};

function write(address, body) {
  return ask(address, {
    method: "POST",
    headers: { "content-type": "application/json", ...(session.csrf ? { "x-trawl-csrf": session.csrf } : {}) },
    body: JSON.stringify(body ?? {}),
  });
}

/** POST, JSON. A session that has ended is noticed here: the page goes back to reading. */
export async function post(address, body) {
  try {
    return await write(address, body);
  } catch (error) {
    if (error.status === 401 || error.status === 403) {
      try {
        session.learn(await get(api.overview()));
      } catch {
        // The first error says what matters.
      }
    }
    throw error;
  }
}

/** Trades the token for a session. */
export async function login(token) {
  const answer = await write(api.login(), { token });
  session.set(answer.csrf ?? null, false);
}

/** Ends the session, here in any case. */
export async function logout() {
  try {
    await write(api.logout());
  } finally {
    session.set(null, session.readOnly);
  }
}
