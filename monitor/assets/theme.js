// Sets the remembered theme before the first paint, so that a dark page never flashes white.
// The only script that is no module: it must run before the body is read. Without a remembered
// choice the system's is taken, by CSS alone.
"use strict";
(() => {
  let theme = null;
  try {
    theme = localStorage.getItem("trawl.theme");
  } catch {
    // Storage is forbidden: the system's choice it is.
  }
  if (theme === "dark" || theme === "light") document.documentElement.dataset.theme = theme;
})();
