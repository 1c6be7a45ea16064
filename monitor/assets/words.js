// The product's words for people: states, stages, error codes, and what would help. Pure.
// The advice is the worker's own (`worker/src/ceilings.rs`); the codes are those of `common/src/error_code.rs`.

/** Stages in the order of a batch's life. */
export const STAGES = ["fetch", "decode", "forward", "encode", "put", "commit"];

export const STAGE_MEANS = {
  fetch: "reading the object from the store",
  decode: "bytes to pixels at the model's size",
  forward: "the model",
  encode: "rows to Parquet",
  put: "writing the part",
  commit: "ledger and acknowledgement",
};

const ADVICE = {
  fetch: "The store's latency binds: raise --fetches, or run the workers nearer to the bucket.",
  decode: "Decoding binds: more cores or workers (--threads), or --decode fast for photos far larger than the model's input.",
  forward: "The model binds: half precision (--precision fp16) on a GPU, more devices or workers, or a smaller model.",
  encode: "Writing results binds: larger batches (--batch-size), or a higher --prefetch.",
  put: "Writing results binds: larger batches (--batch-size), or a higher --prefetch.",
  commit: "Writing results binds: larger batches (--batch-size), or a higher --prefetch.",
};

/** What would help most, or nothing if nothing is known. */
export function advice(binding) {
  return Object.hasOwn(ADVICE, binding ?? "") ? ADVICE[binding] : "";
}

export const STATES = ["running", "enqueuing", "paused", "complete", "cancelled"];

const CODES = {
  not_found: "listed, but gone when it was read",
  forbidden: "the store refuses it to the worker",
  changed: "changed between listing and reading",
  empty: "has no bytes",
  too_many_bytes: "more bytes than --max-image-bytes",
  too_many_pixels: "more pixels than --max-pixels",
  too_many_frames: "more frames or pages than --max-frames",
  not_an_image: "of no image format that trawl reads",
  unsupported: "a format that trawl knows and does not decode",
  truncated: "ends before its last pixel (--truncated accept takes it)",
  corrupt: "broken in some other way",
  decoder_panic: "the decoder panicked",
  model_failed: "the forward pass raised on this image alone",
  non_finite: "the model's answer is not a number",
  crashed_worker: "the worker process died on this image",
  unreadable: "reading failed after all retries",
};

/** All codes, for filters. */
export const CODE_NAMES = Object.keys(CODES);

/** What a code means; "" for one this page does not know. */
export function codeMeans(code) {
  return Object.hasOwn(CODES, code) ? CODES[code] : "";
}

/** The names of services as people write them. */
export const SERVICE_NAMES = { redis: "Redis", rabbitmq: "RabbitMQ", management: "Management API" };

/** What it means that a service is away, and what to do. */
export const SERVICE_AWAY = {
  redis: "Live progress is not known; jobs are shown from their output where it is known. Results are safe: workers go on and count when Redis is back.",
  rabbitmq: "Workers get no new batches until it is back; they reconnect by themselves. Nothing is lost.",
  management: "Unacknowledged messages and rates of queues are not known. Enable it with: rabbitmq-plugins enable rabbitmq_management",
};

/** Errors of a job, the most frequent first: [[code, n], ...]. */
export function byCount(errors) {
  return Object.entries(errors ?? {})
    .filter(([, n]) => n > 0)
    .sort(([a, n], [b, m]) => m - n || (a < b ? -1 : 1));
}
