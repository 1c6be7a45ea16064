// The keyboard: one listener, a table of keys, and moving through lists. A key never acts while somebody types or a
// dialog is open, and never together with Ctrl, Alt or Meta: those belong to the browser.

/** Shown by `?`. */
export const HELP = [
  ["Anywhere", [["g j", "jobs"], ["g w", "workers"], ["g q", "queues"], ["/", "filter"], ["t", "light or dark"], ["?", "this list"]]],
  ["Lists", [["j ↓", "next"], ["k ↑", "previous"], ["Home End", "first, last"], ["Enter", "open"], ["Esc", "leave the filter, clear it"]]],
  ["One job", [["g l", "its gallery"], ["g o", "from the gallery to its job"]]],
  ["Gallery", [["← → ↑ ↓", "move"], ["Enter", "look closer"], ["← →", "in the large view: previous, next"]]],
];

/** A second key later than this begins anew. */
const CHORD_MS = 1200;

const typing = (target) => target instanceof HTMLElement
  && (target.isContentEditable || /^(INPUT|TEXTAREA|SELECT)$/.test(target.tagName));

/** `act(name)` is called with "g j", "/", "?" and so on; true means that it was used. */
export function listen(act) {
  let first = "";
  let when = 0;
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey || event.isComposing) return;
    if (document.querySelector("dialog[open]")) return;
    if (typing(event.target)) {
      if (event.key === "Escape" && act("Escape", event.target)) event.preventDefault();
      return;
    }
    const chord = first && performance.now() - when < CHORD_MS ? `${first} ${event.key}` : event.key;
    first = event.key === "g" && chord === "g" ? "g" : "";
    when = performance.now();
    if (act(chord, event.target)) event.preventDefault();
  });
}

/** Elements of a list that can be reached, in order. */
const stops = (list) => [...list.querySelectorAll("[data-stop]")].filter((element) => element.getClientRects().length > 0);

/** Moves the focus within `list` by the key; true if it was a key for lists. */
export function move(list, key, columns = 1) {
  const steps = { j: 1, k: -1, ArrowDown: columns, ArrowUp: -columns };
  if (columns > 1) Object.assign(steps, { ArrowRight: 1, ArrowLeft: -1 });
  if (!(key in steps) && key !== "Home" && key !== "End") return false;
  const all = stops(list);
  if (!all.length) return false;
  const at = all.indexOf(document.activeElement);
  // Outside of the list these scroll the page, as everywhere.
  if (at < 0 && key !== "j" && key !== "k") return false;
  let next = key === "Home" ? 0 : key === "End" ? all.length - 1 : at < 0 ? 0 : at + steps[key];
  if (next < 0 || next >= all.length) next = at < 0 ? 0 : at;
  all[next].focus();
  all[next].closest("tr, li")?.scrollIntoView({ block: "nearest" });
  return true;
}
