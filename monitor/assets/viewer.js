// The large view of the gallery: one image, all its labels, its row. Arrow keys go on; at the end more is loaded. A
// picture that cannot be shown says why, in the monitor's words.

import { get } from "./api.js";
import { ICONS, attr, h, iconButton, replace, show, text, vary } from "./dom.js";
import { count, probability } from "./format.js";
import { api } from "./links.js";
import { copyButton, foreign } from "./parts.js";
import { codeMeans } from "./words.js";

const LARGE = 1024;

/** A row's labels as bars. */
export function labelBars(row) {
  return h("ol", { class: "topk" }, (row.topk ?? []).slice(0, 5).map(({ label, prob }) => {
    const bar = h("i");
    vary(bar, "--share", `${(Math.max(0, Math.min(1, prob)) * 100).toFixed(1)}%`);
    const name = foreign(label);
    return h("li", { title: name }, bar, h("span", null, name), h("b", null, probability(prob)));
  }));
}

/** Opens at row `at` of `rows()`. `grow()` loads more, `leave(index)` gets where it ended. */
export function view({ job, at, rows, mayGrow, grow, leave }) {
  let index = at;
  let turn = 0;
  const picture = h("div", { class: "viewer-picture" });
  const side = h("div", { class: "viewer-side" });
  const place = h("span", { class: "muted", role: "status" });
  const back = iconButton("Previous image", ICONS.left, () => go(-1));
  const on = iconButton("Next image", ICONS.right, () => go(1));
  const title = h("h2", { id: "viewer-title" });
  const dialog = h("dialog", { class: "viewer", "aria-labelledby": "viewer-title" },
    h("header", null, title, place, back, on,
      iconButton("Close", ICONS.close, () => dialog.close())),
    h("div", { class: "viewer-body" }, picture, side));

  dialog.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    const step = { ArrowLeft: -1, ArrowRight: 1, k: -1, j: 1 }[event.key];
    if (!step) return;
    event.preventDefault();
    go(step);
  });
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  dialog.addEventListener("close", () => {
    turn += 1;
    dialog.remove();
    leave(index);
  });

  async function go(step) {
    if (step > 0 && index + 1 >= rows().length && mayGrow()) await grow();
    const next = index + step;
    if (next < 0 || next >= rows().length || !dialog.isConnected) return;
    index = next;
    draw();
    if (index + 5 > rows().length && mayGrow()) grow();
  }

  function draw() {
    const row = rows()[index];
    const mine = ++turn;
    const failed = row.status !== "ok";
    text(title, failed ? foreign(row.code) : foreign(row.label ?? "no label"));
    text(place, `${count(index + 1)} of ${count(rows().length)}${mayGrow() ? " loaded" : ""}`);
    back.disabled = index === 0;
    on.disabled = index + 1 >= rows().length && !mayGrow();

    // The small picture is there already and holds the place until the large one is.
    const small = h("img", { alt: "", src: api.thumbnail(job, row.batch, row.row, 256), class: "small" });
    const address = api.thumbnail(job, row.batch, row.row, LARGE);
    const large = h("img", { alt: `Image ${foreign(row.key)}`, class: "large" });
    large.addEventListener("load", () => { if (mine === turn) { attr(large, "data-in", ""); show(small, false); } });
    large.addEventListener("error", () => { if (mine === turn) explain(address, mine); });
    small.addEventListener("error", () => small.remove());
    large.src = address;
    replace(picture, small, large);

    replace(side,
      failed ? h("p", { class: "notice" }, foreign(row.message) || codeMeans(row.code)) : labelBars(row),
      failed && codeMeans(row.code) ? h("p", { class: "hint" }, `${foreign(row.code)}: ${codeMeans(row.code)}`) : null,
      h("dl", { class: "facts" },
        fact("Key", foreign(row.key), copyButton(row.key, "the key")),
        row.width && row.height ? fact("Size", `${count(row.width)} × ${count(row.height)} pixels`) : null,
        fact("Where", `batch ${count(row.batch)}, row ${count(row.row)}`),
        !failed && row.code ? fact("Note", `${foreign(row.code)}: ${codeMeans(row.code)}`) : null));
  }

  async function explain(address, mine) {
    let why = "The picture cannot be shown.";
    try {
      await get(address);
    } catch (error) {
      why = error.message;
    }
    if (mine === turn) replace(picture, h("p", { class: "no-image" }, foreign(why)));
  }

  document.body.append(dialog);
  draw();
  dialog.showModal();
  on.focus();
}

const fact = (name, value, extra) => h("div", null, h("dt", null, name), h("dd", null, h("span", null, value), extra));
