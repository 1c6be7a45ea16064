// Geometry of bars and charts: scales, ticks, shares. Pure.

/** Maps `from..to` onto `low..high`. An empty domain lands in the middle. */
export function linear(from, to, low, high) {
  const width = to - from;
  return (value) => (width === 0 ? (low + high) / 2 : low + ((value - from) / width) * (high - low));
}

/** Round tick values from 0 to at least `max`, about `wanted` of them: steps of 1, 2, 2.5 or 5 times a power of ten. */
export function niceTicks(max, wanted = 4) {
  if (!(max > 0) || !Number.isFinite(max)) return [0, 1];
  const rough = max / wanted;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((value) => value >= rough * 0.999);
  const steps = Math.max(1, Math.ceil(max / step - 1e-9));
  return Array.from({ length: steps + 1 }, (_, index) => Number((index * step).toPrecision(12)));
}

const TIME_STEPS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400, 172800, 604800];

/** Ticks of a time axis, in unix ms, on whole steps of the local clock; at most about `wanted`. */
export function timeTicks(from, to, wanted = 6, offsetMinutes = new Date(from).getTimezoneOffset()) {
  if (!(to > from)) return { step: 1000, ticks: [] };
  const seconds = TIME_STEPS.find((step) => (to - from) / 1000 / step <= wanted) ?? TIME_STEPS.at(-1);
  const step = seconds * 1000;
  const shift = offsetMinutes * 60_000;
  const ticks = [];
  for (let tick = Math.ceil((from - shift) / step) * step + shift; tick <= to; tick += step) ticks.push(tick);
  return { step, ticks };
}

/** Points cut where nothing was measured for much longer than usual, so that a line does not bridge a silence. */
export function segments(points) {
  const gaps = points.slice(1).map((point, index) => point[0] - points[index][0]).sort((a, b) => a - b);
  const usual = gaps.length ? gaps[Math.floor(gaps.length / 2)] : 0;
  const found = [];
  points.forEach((point, index) => {
    if (index === 0 || (usual > 0 && point[0] - points[index - 1][0] > usual * 4)) found.push([]);
    found.at(-1).push(point);
  });
  return found;
}

/** The index of the point nearest to `at` on the first axis; -1 without points. Points are ordered. */
export function nearest(points, at) {
  let [low, high] = [0, points.length - 1];
  if (high < 0) return -1;
  while (high - low > 1) {
    const half = (low + high) >> 1;
    if (points[half][0] <= at) low = half;
    else high = half;
  }
  return Math.abs(points[low][0] - at) <= Math.abs(points[high][0] - at) ? low : high;
}

/** At most `limit` points: neighbours are averaged, so that a spike is damped but never invented. */
export function thin(points, limit) {
  if (points.length <= limit) return points;
  const size = Math.ceil(points.length / limit);
  const out = [];
  for (let at = 0; at < points.length; at += size) {
    const group = points.slice(at, at + size);
    out.push([group.at(-1)[0], group.reduce((sum, point) => sum + point[1], 0) / group.length]);
  }
  return out;
}

/** An SVG path through points. */
export function linePath(points, x, y) {
  return points.map((point, index) => `${index ? "L" : "M"}${x(point[0]).toFixed(1)} ${y(point[1]).toFixed(1)}`).join("");
}

/**
 * Shares of a progress bar in percent: `{ok, failed}`. What is there at all gets at least `least`, so that three
 * failures among ten million can be seen; together never more than 100.
 */
export function barShares(ok, failed, planned, least = 0.6) {
  if (!(planned > 0)) return { ok: 0, failed: 0 };
  const share = (value) => (value > 0 ? Math.min(100, Math.max(least, (value / planned) * 100)) : 0);
  const bad = share(failed);
  return { ok: Math.min(share(ok), 100 - bad), failed: bad };
}
