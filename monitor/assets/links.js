// Addresses of pages and of the API, there and back. Pure. Every part of an address that is somebody's text goes
// through encodeURIComponent here and nowhere else.

const part = encodeURIComponent;

/** `?a=1&b=2` of what is set; "" if nothing is. */
export function query(values) {
  const set = Object.entries(values).filter(([, value]) => value !== null && value !== undefined && value !== "");
  return set.length ? "?" + set.map(([name, value]) => `${part(name)}=${part(value)}`).join("&") : "";
}

/** Pages. */
export const page = {
  jobs: (filter = {}) => "/" + query(filter),
  job: (job) => `/jobs/${part(job)}`,
  gallery: (job, filter = {}) => `/jobs/${part(job)}/gallery${query(filter)}`,
  workers: (filter = {}) => "/workers" + query(filter),
  queues: () => "/queues",
};

/** The API. */
export const api = {
  overview: () => "/api/overview",
  jobs: (limit, before) => "/api/jobs" + query({ limit, before }),
  job: (job) => `/api/jobs/${part(job)}`,
  failures: (job, values) => `/api/jobs/${part(job)}/failures${query(values)}`,
  gallery: (job, values) => `/api/jobs/${part(job)}/gallery${query(values)}`,
  thumbnail: (job, batch, row, size) => `/api/jobs/${part(job)}/thumbnail/${part(batch)}/${part(row)}${query({ size })}`,
  workers: () => "/api/workers",
  queues: () => "/api/queues",
  events: (topics) => "/api/events" + query({ topics: topics.join(",") }),
  jobAction: (job, action) => `/api/jobs/${part(job)}/${part(action)}`,
  dead: (job, id, action) => `/api/jobs/${part(job)}/dead/${part(id)}/${part(action)}`,
  deadRetryAll: (job) => `/api/jobs/${part(job)}/dead/retry`,
  login: () => "/api/login",
  logout: () => "/api/logout",
};

/** Where a topic of the event stream is read when the stream is broken. */
export function topicAddress(topic) {
  if (topic.startsWith("job:")) return api.job(topic.slice(4));
  if (topic === "jobs") return api.jobs(100);
  return `/api/${part(topic)}`;
}

/** The page that a path names: `{page, job?}`, or `{page: "missing"}`. */
export function route(path) {
  const segments = path.split("/").filter((segment) => segment !== "");
  let names;
  try {
    names = segments.map(decodeURIComponent);
  } catch {
    return { page: "missing" };
  }
  if (names.length === 0 || (names.length === 1 && names[0] === "jobs")) return { page: "jobs" };
  if (names.length === 1 && (names[0] === "workers" || names[0] === "queues")) return { page: names[0] };
  if (names[0] === "jobs" && names.length === 2) return { page: "job", job: names[1] };
  if (names[0] === "jobs" && names.length === 3 && names[2] === "gallery") return { page: "gallery", job: names[1] };
  return { page: "missing" };
}

/** Filters of a page from its query, only those it knows. */
export function filters(search, names) {
  const given = new URLSearchParams(search);
  return Object.fromEntries(names.filter((name) => given.get(name)).map((name) => [name, given.get(name)]));
}
