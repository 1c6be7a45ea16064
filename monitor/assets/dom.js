// Builds and updates elements. There is no innerHTML here or anywhere: text becomes text nodes, so a key such as
// `<img src=x onerror=...>` stays the text that it is. Updates touch only what changed: focus, selection and hover
// live through every live update.

const SVG = "http://www.w3.org/2000/svg";

function fill(element, props, children) {
  for (const [name, value] of Object.entries(props ?? {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "value" || name === "disabled" || name === "checked" || name === "hidden") element[name] = value;
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  add(element, children);
  return element;
}

function add(element, children) {
  for (const child of children.flat(3)) {
    if (child === undefined || child === null || child === false) continue;
    element.append(child instanceof Node ? child : String(child));
  }
}

/** An HTML element: `h("td", {class: "n"}, "text", child)`. Names that begin with `on` are listeners. */
export function h(tag, props, ...children) {
  return fill(document.createElement(tag), props, children);
}

/** An SVG element. */
export function s(tag, props, ...children) {
  return fill(document.createElementNS(SVG, tag), props, children);
}

/** A button with a name. */
export function button(name, onclick, className = "", props = {}) {
  return h("button", { type: "button", class: `button ${className}`, onclick, ...props }, name);
}

/** A button with an icon, and the name for those who do not see it. */
export function iconButton(name, path, onclick) {
  return h("button", { type: "button", class: "icon-button", "aria-label": name, title: name, onclick }, icon(path));
}

/** Sets the text if it differs. */
export function text(element, value) {
  const next = String(value);
  if (element.textContent !== next) element.textContent = next;
}

/** Sets, or with null removes, an attribute if it differs. */
export function attr(element, name, value) {
  if (value === null || value === undefined || value === false) {
    if (element.hasAttribute(name)) element.removeAttribute(name);
  } else if (element.getAttribute(name) !== String(value)) element.setAttribute(name, String(value));
}

/** Sets a custom property through the CSSOM, which the CSP allows where a style attribute is refused. */
export function vary(element, name, value) {
  if (element.style.getPropertyValue(name) !== String(value)) element.style.setProperty(name, String(value));
}

/** Shows or hides. */
export function show(element, shown) {
  if (element.hidden === Boolean(shown)) element.hidden = !shown;
}

/** Replaces all children. */
export function replace(element, ...children) {
  element.replaceChildren();
  add(element, children);
}

/**
 * Brings the children of `parent` in step with `items`. `make(item)` gives `{element, update(item)}`; an item keeps
 * its element for as long as its key is there, and elements move only where the order really changed.
 */
export function keyed(parent, items, keyOf, make) {
  // The first time, grey placeholders go.
  if (!parent.keyedRows) parent.replaceChildren();
  const known = (parent.keyedRows ??= new Map());
  const wanted = new Map(items.map((item) => [keyOf(item), item]));
  for (const [key, row] of known) {
    if (wanted.has(key)) continue;
    row.element.remove();
    known.delete(key);
  }
  const focused = parent.contains(document.activeElement) ? document.activeElement : null;
  let place = parent.firstElementChild;
  for (const [key, item] of wanted) {
    let row = known.get(key);
    if (!row) known.set(key, (row = make(item)));
    row.update?.(item);
    if (row.element === place) place = place.nextElementSibling;
    else parent.insertBefore(row.element, place);
  }
  // An element that was moved has lost the focus.
  if (focused && focused !== document.activeElement && parent.contains(focused)) focused.focus({ preventScroll: true });
}

/** An icon drawn from one path on a 20 x 20 field. */
export function icon(path) {
  return s("svg", { viewBox: "0 0 20 20", "aria-hidden": "true", class: "icon" }, s("path", { d: path }));
}

export const ICONS = {
  copy: "M7 7V4.500A1.500 1.500 0 0 1 8.500 3h7A1.500 1.500 0 0 1 17 4.500v7a1.500 1.500 0 0 1-1.500 1.500H13M4.500 7h7A1.500 1.500 0 0 1 13 8.500v7a1.500 1.500 0 0 1-1.500 1.500h-7A1.500 1.500 0 0 1 3 15.500v-7A1.500 1.500 0 0 1 4.500 7z",
  close: "M5 5l10 10M15 5L5 15",
  left: "M12.500 4l-6 6 6 6",
  right: "M7.500 4l6 6-6 6",
};

/** Waits until `pause` ms passed without a call, then calls once. */
export function settle(pause, call) {
  let timer;
  return (...values) => {
    clearTimeout(timer);
    timer = setTimeout(call, pause, ...values);
  };
}
