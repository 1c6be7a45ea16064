// Dialogs: a confirmation, the token, the list of keys. The browser's own <dialog> keeps the focus inside, closes on
// Esc and gives the focus back. A write is never asked for without one of these or a button that names it.

import { login, logout, session } from "./api.js";
import { ICONS, button, h, iconButton, show, text } from "./dom.js";
import { HELP } from "./keys.js";
import { command } from "./parts.js";

let ids = 0;

function open(title, className, content, onClose) {
  const id = `dialog-${++ids}`;
  const back = document.activeElement;
  const dialog = h("dialog", { class: className, "aria-labelledby": id },
    h("header", null, h("h2", { id }, title),
      iconButton("Close", ICONS.close, () => dialog.close())),
    content);
  dialog.addEventListener("close", () => {
    dialog.remove();
    if (back instanceof HTMLElement && back.isConnected) back.focus({ preventScroll: true });
    onClose?.();
  });
  // A click beside it closes it, one that merely ends there does not.
  let pressed = false;
  dialog.addEventListener("pointerdown", (event) => { pressed = event.target === dialog; });
  dialog.addEventListener("click", (event) => { if (pressed && event.target === dialog) dialog.close(); });
  document.body.append(dialog);
  dialog.showModal();
  return dialog;
}

/** Asks; true only for the button that names the deed. The focus begins on the harmless one. */
export function confirm({ title, sentences, action, kind = "plain" }) {
  return new Promise((resolve) => {
    let said = false;
    const no = button("Keep as it is", () => dialog.close(), "", { autofocus: true });
    const yes = button(action, () => { said = true; dialog.close(); }, kind);
    const dialog = open(title, "dialog", [
      sentences.map((sentence) => h("p", null, sentence)),
      h("div", { class: "dialog-actions" }, no, yes),
    ], () => resolve(said));
  });
}

/** Asks for the token, or says why none would help. */
export function signIn() {
  if (session.mayWrite) {
    open("Signed in", "dialog", [
      h("p", null, "You may pause, resume and cancel jobs, and retry or drop dead letters."),
      h("div", { class: "dialog-actions" }, button("Sign out", (event) => {
        event.target.closest("dialog").close();
        logout().catch(() => {});
      })),
    ]);
    return;
  }
  if (session.readOnly) {
    open("Read-only", "dialog", [
      h("p", null, "This monitor was started without a token, so nobody can change anything through it."),
      h("p", null, "To allow it, start it with a token of your own in a file:"),
      command("trawl-monitor --token-file FILE"),
    ]);
    return;
  }
  const input = h("input", { type: "password", id: "token", autocomplete: "current-password", required: true, spellcheck: "false", autofocus: true });
  const wrong = h("p", { class: "notice", role: "alert", hidden: true });
  const enter = h("button", { type: "submit", class: "button primary" }, "Sign in");
  const form = h("form", {
    async onsubmit(event) {
      event.preventDefault();
      enter.disabled = true;
      show(wrong, false);
      try {
        await login(input.value);
        dialog.close();
      } catch (error) {
        text(wrong, error.message);
        show(wrong, true);
        input.select();
      } finally {
        enter.disabled = false;
      }
    },
  },
  h("label", { for: "token" }, "Token"), input,
  h("p", { class: "hint" }, "The one that trawl-monitor was started with (TRAWL_MONITOR_TOKEN or --token-file). Reading needs none."),
  wrong, h("div", { class: "dialog-actions" }, enter));
  const dialog = open("Sign in to make changes", "dialog", form);
}

/** The list of keys. */
export function help() {
  open("Keyboard", "dialog wide", h("div", { class: "key-groups" }, HELP.map(([group, keys]) =>
    h("section", null, h("h3", null, group), h("dl", null, keys.map(([chord, does]) =>
      h("div", null, h("dt", null, chord.split(" ").map((key) => h("kbd", null, key))), h("dd", null, does))))))));
}
