// The rate chart of a job: SVG with axes, a line, and the value under the pointer or, with arrow keys, under the
// focus. Drawn in real pixels at the width it has, so that text keeps its size on a phone.

import { attr, h, keyed, replace, s, show, text, vary } from "./dom.js";
import { clock, compact, digits3, rate } from "./format.js";
import { linePath, linear, nearest, niceTicks, segments, timeTicks } from "./scale.js";

const HEIGHT = 190;
const EDGE = { top: 12, right: 8, bottom: 24, left: 48 };

/** A chart of `[[unix_ms, images_per_second], ...]`. `update(points)`, `stop()`. */
export function rateChart() {
  const grid = s("g", { class: "chart-grid" });
  const lines = s("g");
  const cross = s("line", { class: "chart-cross", y1: EDGE.top, y2: HEIGHT - EDGE.bottom, visibility: "hidden" });
  const dot = s("circle", { class: "chart-dot", r: 4, visibility: "hidden" });
  const svg = s("svg", { class: "chart", height: HEIGHT, role: "img", tabindex: "0" }, grid, lines, cross, dot);
  const bubble = h("output", { class: "bubble", hidden: true });
  const nothing = h("p", { class: "chart-empty" }, "The rate is drawn as soon as batches finish.");
  const element = h("div", { class: "chart-box" }, svg, bubble, nothing);
  const state = { points: [], width: 0, x: null, y: null, at: -1 };

  const draw = () => {
    const { points, width } = state;
    const enough = points.length > 1 && width > 120;
    show(nothing, points.length < 2);
    attr(svg, "width", Math.max(1, width));
    attr(svg, "viewBox", `0 0 ${Math.max(1, width)} ${HEIGHT}`);
    if (!enough) {
      keyed(grid, []);
      replace(lines);
      return point(-1);
    }
    axes(state, grid);
    const floor = HEIGHT - EDGE.bottom;
    const pieces = segments(points).filter((piece) => piece.length > 1);
    replace(lines, pieces.map((piece) => {
      const path = linePath(piece, state.x, state.y);
      const [from, to] = [state.x(piece[0][0]).toFixed(1), state.x(piece.at(-1)[0]).toFixed(1)];
      return [s("path", { class: "chart-area", d: `${path}L${to} ${floor}L${from} ${floor}Z` }), s("path", { class: "chart-line", d: path })];
    }));
    const values = points.map((entry) => entry[1]);
    attr(svg, "aria-label", `Images per second since ${clock(points[0][0], points.at(-1)[0])}: now ${rate(values.at(-1))}, `
      + `lowest ${rate(Math.min(...values))}, highest ${rate(Math.max(...values))}. Arrow keys read single values.`);
    if (state.at >= 0) point(Math.min(state.at, points.length - 1));
  };

  const point = (index) => {
    state.at = index;
    const found = state.points[index];
    const shown = Boolean(found && state.x);
    attr(cross, "visibility", shown ? "visible" : "hidden");
    attr(dot, "visibility", shown ? "visible" : "hidden");
    show(bubble, shown);
    if (!shown) return;
    const [x, y] = [state.x(found[0]), state.y(found[1])];
    attr(cross, "x1", x);
    attr(cross, "x2", x);
    attr(dot, "cx", x);
    attr(dot, "cy", y);
    text(bubble, `${rate(found[1])} img/s at ${seconds(found[0])}`);
    vary(bubble, "--x", `${Math.max(EDGE.left + 60, Math.min(state.width - 80, x))}px`);
  };

  svg.addEventListener("pointermove", (event) => {
    if (!state.x) return;
    const [from, to] = [state.points[0][0], state.points.at(-1)[0]];
    const back = linear(EDGE.left, state.width - EDGE.right, from, to);
    point(nearest(state.points, back(event.clientX - svg.getBoundingClientRect().left)));
  });
  svg.addEventListener("pointerleave", () => point(-1));
  svg.addEventListener("blur", () => point(-1));
  svg.addEventListener("keydown", (event) => {
    const steps = { ArrowLeft: -1, ArrowRight: 1 };
    if (!(event.key in steps) || !state.points.length) return;
    const at = state.at < 0 ? state.points.length - 1 : state.at + steps[event.key];
    point(Math.max(0, Math.min(state.points.length - 1, at)));
    event.preventDefault();
    event.stopPropagation();
  });

  const watcher = new ResizeObserver(([entry]) => {
    const width = Math.floor(entry.contentRect.width);
    if (width === state.width) return;
    state.width = width;
    draw();
  });
  watcher.observe(element);

  return {
    element,
    update(points) {
      state.points = points ?? [];
      draw();
    },
    stop: () => watcher.disconnect(),
  };
}

const seconds = (unixMs) => new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" }).format(unixMs);

function axes(state, grid) {
  const { points, width } = state;
  const ticks = niceTicks(Math.max(...points.map((entry) => entry[1]), 1e-9));
  const [from, to] = [points[0][0], points.at(-1)[0]];
  state.x = linear(from, to, EDGE.left, width - EDGE.right);
  state.y = linear(0, ticks.at(-1), HEIGHT - EDGE.bottom, EDGE.top);
  const marks = timeTicks(from, to, Math.max(2, Math.floor(width / 110)));
  const label = (unixMs) => (marks.step < 60_000 ? seconds(unixMs) : clock(unixMs, to));
  const rows = [
    ...ticks.map((tick) => ({ key: `y${tick}`, x1: EDGE.left, x2: width - EDGE.right, y1: state.y(tick), y2: state.y(tick),
      label: tick < 10_000 ? digits3(tick) : compact(tick), x: EDGE.left - 8, y: state.y(tick) + 4, anchor: "end" })),
    ...marks.ticks.map((tick) => ({ key: `x${tick}`, x1: state.x(tick), x2: state.x(tick), y1: HEIGHT - EDGE.bottom, y2: HEIGHT - EDGE.bottom + 4,
      label: label(tick), x: state.x(tick), y: HEIGHT - 6, anchor: state.x(tick) > width - 30 ? "end" : "middle" })),
  ];
  keyed(grid, rows, (row) => row.key, () => {
    const line = s("line");
    const words = s("text");
    return {
      element: s("g", null, line, words),
      update(row) {
        for (const name of ["x1", "x2", "y1", "y2"]) attr(line, name, row[name].toFixed(1));
        attr(words, "x", row.x.toFixed(1));
        attr(words, "y", row.y.toFixed(1));
        attr(words, "text-anchor", row.anchor);
        text(words, row.label);
      },
    };
  });
}
