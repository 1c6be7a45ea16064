// The page of queues: what waits, what is in work, what is tried again, what was given up, who consumes. And what it
// means when the management API cannot be asked.

import { attr, h, replace, show, text } from "./dom.js";
import { count, rate, shellWord } from "./format.js";
import { move } from "./keys.js";
import { page } from "./links.js";
import { command, empty, emptyPlace, foreign, notice, table } from "./parts.js";
import { SERVICE_AWAY } from "./words.js";

const alone = (queue) => queue.consumers === 0 && queue.ready > 0;

const number = (name, key, title, kind = null) => ({
  name, class: "n", title,
  text: (queue) => (key.endsWith("_rate") ? rate(queue[key]) : count(queue[key])),
  kind: (queue) => (kind && (key === "consumers" ? alone(queue) : queue[key] > 0) ? kind : queue[key] ? null : "quiet"),
});

const COLUMNS = [
  {
    name: "Queue", class: "c-queue",
    live() {
      const name = h("a", { class: "row-link", "data-stop": true });
      const hint = h("small");
      return {
        element: [name, hint],
        update(queue) {
          text(name, foreign(queue.queue));
          attr(name, "href", page.jobs({ q: queue.queue }));
          text(hint, alone(queue) ? `Nobody consumes it: trawl-worker --queue ${shellWord(queue.queue)}`
            : queue.dead > 0 ? "Dead letters wait for a decision, on their job's page" : "");
          attr(hint, "data-kind", alone(queue) ? "bad" : null);
        },
      };
    },
  },
  number("Ready", "ready", "Batches waiting"), number("In work", "unacked", "Delivered to workers and not yet acknowledged"),
  number("Retry", "retry", "Waiting to be tried again", "warn"), number("Dead", "dead", "Given up after all attempts", "bad"),
  number("Consumers", "consumers", "Connected workers", "bad"), number("In /s", "publish_rate", "Published a second"),
  number("Out /s", "deliver_rate", "Delivered a second"), number("Acked /s", "ack_rate", "Acknowledged a second"),
];

const LEGEND = [["Ready", "batches waiting for a worker"], ["In work", "held by workers, back in the queue if one dies"],
  ["Retry", "failed for a passing reason; come back after a pause"], ["Dead", "given up, with the reason; retry or drop them on their job's page"]];

/** Opens the page in `main`. */
export function open(main, context) {
  const list = table("Queues", "queues", COLUMNS, (queue) => queue.queue);
  const problem = notice();
  const nothing = emptyPlace();
  const reason = h("p", { class: "reason" });
  const away = h("section", { class: "panel attention", hidden: true },
    h("header", null, h("h2", null, "The management API does not answer")), reason,
    h("p", null, "Ready messages and consumers are asked of RabbitMQ itself and are right. What is in work, retries, dead letters and rates only the management API knows: they are shown as –. Enable it on the broker, or give the monitor its right address:"),
    command("rabbitmq-plugins enable rabbitmq_management"));
  list.skeleton(3);
  replace(main, h("h1", { class: "sr" }, "Queues"), problem.element, away, list.element, nothing.element,
    h("dl", { class: "legend" }, LEGEND.map(([term, means]) => h("div", null, h("dt", null, term), h("dd", null, means)))));
  context.title("Queues");

  return {
    topics: ["queues"],
    data(found) {
      const queues = found.queues ?? [];
      problem.say("");
      list.update(queues);
      show(away, found.management?.ok === false);
      text(reason, foreign(found.management?.reason) || SERVICE_AWAY.management);
      nothing.say(queues.length ? "" : "none", () => empty("No queues yet", "The first job or worker declares its queue:", ["trawl-worker --queue default"]));
    },
    error: (error) => problem.say(error.message),
    act: (key) => move(list.body, key),
  };
}
