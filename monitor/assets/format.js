// Figures as people read them: counts, rates, shares, spans of time, sizes. Pure; an unknown value is a dash.
// What is not finished is never shown as 100 %, and what has begun never as 0 %: people act on both.

export const DASH = "–";
const NARROW = "\u202f";

const known = (value) => typeof value === "number" && Number.isFinite(value);

const grouped = new Intl.NumberFormat("en-US", { maximumFractionDigits: 0 });

/** 1234567 -> "1,234,567". */
export function count(value) {
  return known(value) ? grouped.format(value) : DASH;
}

/** 1234567 -> "1.23 M"; below ten thousand in full. */
export function compact(value) {
  if (!known(value)) return DASH;
  if (Math.abs(value) < 10_000) return grouped.format(value);
  const units = ["k", "M", "G", "T"];
  let scaled = value;
  let unit = -1;
  while (Math.abs(scaled) >= 999.5 && unit < units.length - 1) {
    scaled /= 1000;
    unit += 1;
  }
  return `${digits3(scaled)}${NARROW}${units[unit]}`;
}

/** Three significant digits, without trailing zeros behind the point. */
export function digits3(value) {
  if (!known(value)) return DASH;
  const size = Math.abs(value);
  if (size >= 99.95) return grouped.format(value);
  const text = size >= 9.995 ? value.toFixed(1) : value.toFixed(2);
  return text.includes(".") ? text.replace(/0+$/, "").replace(/\.$/, "") : text;
}

/** Images per second: 1234.5 -> "1,235", 12.34 -> "12.3", 0.004 -> "<0.01". */
export function rate(value) {
  if (!known(value)) return DASH;
  if (value > 0 && value < 0.01) return "<0.01";
  if (value >= 99.95) return grouped.format(value);
  return value >= 9.995 ? value.toFixed(1) : value === 0 ? "0" : value.toFixed(2);
}

/** A share of a whole in percent: one digit behind the point, held back from 0 and 100 until they are true. */
export function percent(part, whole) {
  if (!known(part) || !known(whole) || whole <= 0) return DASH;
  if (part >= whole) return `100${NARROW}%`;
  if (part <= 0) return `0${NARROW}%`;
  if (part / whole < 0.001) return `<0.1${NARROW}%`;
  const tenths = Math.min(999, Math.floor((part / whole) * 1000));
  return `${(tenths / 10).toFixed(1)}${NARROW}%`;
}

/** A probability: 0.9995 -> "99.9 %"; 1 only when it is 1. */
export function probability(value) {
  return known(value) ? percent(value, 1) : DASH;
}

/** Seconds -> "48 s", "3 min 20 s", "2 h 05 min", "3 d 4 h". */
export function duration(seconds) {
  if (!known(seconds)) return DASH;
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 60) return `${whole}${NARROW}s`;
  if (whole < 600) {
    const rest = whole % 60;
    return `${Math.floor(whole / 60)}${NARROW}min` + (rest ? ` ${rest}${NARROW}s` : "");
  }
  const minutes = Math.round(whole / 60);
  if (minutes < 60) return `${minutes}${NARROW}min`;
  if (minutes < 48 * 60) {
    const rest = minutes % 60;
    return `${Math.floor(minutes / 60)}${NARROW}h` + (rest ? ` ${String(rest).padStart(2, "0")}${NARROW}min` : "");
  }
  const hours = Math.round(whole / 3600);
  const rest = hours % 24;
  return `${Math.floor(hours / 24)}${NARROW}d` + (rest ? ` ${rest}${NARROW}h` : "");
}

/** The same in one unit, for narrow places and ages: "48 s", "3 min", "2 h", "5 d". */
export function age(milliseconds) {
  if (!known(milliseconds)) return DASH;
  const seconds = Math.max(0, Math.floor(milliseconds / 1000));
  if (seconds < 60) return `${seconds}${NARROW}s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)}${NARROW}min`;
  if (seconds < 48 * 3600) return `${Math.floor(seconds / 3600)}${NARROW}h`;
  return `${Math.floor(seconds / 86400)}${NARROW}d`;
}

/** A range of seconds in the unit of its upper end: "12 to 18 min". Nothing if it is unknown or says nothing. */
export function durationRange(low, high) {
  if (!known(low) || !known(high) || high < low) return "";
  const [size, unit] = high < 90 ? [1, "s"] : high < 5400 ? [60, "min"] : high < 48 * 3600 ? [3600, "h"] : [86400, "d"];
  const shown = (value) => {
    const scaled = value / size;
    return scaled < 10 && size >= 3600 ? scaled.toFixed(1) : String(Math.round(scaled));
  };
  const [from, to] = [shown(low), shown(high)];
  return from === to ? "" : `${from} to ${to}${NARROW}${unit}`;
}

/** Bytes -> "1.4 GB" (powers of 1000, as disks and clouds count). */
export function bytes(value) {
  if (!known(value)) return DASH;
  const units = ["B", "kB", "MB", "GB", "TB", "PB"];
  let scaled = value;
  let unit = 0;
  while (scaled >= 999.5 && unit < units.length - 1) {
    scaled /= 1000;
    unit += 1;
  }
  return `${unit === 0 ? grouped.format(scaled) : digits3(scaled)}${NARROW}${units[unit]}`;
}

/** Milliseconds of an image in a stage: "0.42 ms", "12.3 ms". */
export function milliseconds(value) {
  if (!known(value)) return DASH;
  if (value >= 1000) return `${digits3(value / 1000)}${NARROW}s`;
  if (value > 0 && value < 0.01) return `<0.01${NARROW}ms`;
  return `${digits3(value)}${NARROW}ms`;
}

/** A time of day, with the date when it is not today's: "14:05", "21 Nov 14:05". */
export function clock(unixMs, nowMs, zone) {
  if (!known(unixMs)) return DASH;
  const day = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short", year: "numeric", timeZone: zone });
  const time = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", timeZone: zone }).format(unixMs);
  const [then, now] = [day.format(unixMs), day.format(nowMs)];
  if (then === now) return time;
  return `${then.slice(-4) === now.slice(-4) ? then.slice(0, -5) : then} ${time}`;
}

/** A long name with its middle left out: the ends of keys and digests tell them apart. */
export function middle(text, limit) {
  const letters = Array.from(String(text));
  if (letters.length <= limit) return String(text);
  const head = Math.floor((limit - 1) / 3);
  return letters.slice(0, head).join("") + "…" + letters.slice(letters.length - (limit - 1 - head)).join("");
}

/** The last part of a key or an address: the file without its folders. */
export function lastPart(text) {
  const trimmed = String(text ?? "").replace(/\/+$/, "");
  return trimmed.slice(trimmed.lastIndexOf("/") + 1);
}

/** 1 -> "1 job", 2 -> "2 jobs". */
export function plural(value, one, many = `${one}s`) {
  return `${count(value)} ${value === 1 ? one : many}`;
}

/** Shows control and direction-changing characters of somebody else's text, which could make it read as another. */
export function visible(text) {
  return String(text).replace(/[\u0000-\u001f\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g, (letter) =>
    `\\u{${letter.codePointAt(0).toString(16)}}`);
}

/** A word of a shell command: quoted where it needs to be, so that a copied command does what it shows. */
export function shellWord(text) {
  const word = visible(text ?? "");
  return /^[A-Za-z0-9_@%+=:,./][A-Za-z0-9_@%+=:,./-]*$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`;
}
