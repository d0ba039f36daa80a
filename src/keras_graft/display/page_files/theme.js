"use strict";
/* Light or dark: as the system says, or as the switch says. */

const Theme = (() => {
  const root = document.documentElement;
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : dark.matches);

  // Storage raises in a sandboxed frame; then the choice is kept for this page only.
  function kept() {
    try {
      return localStorage.getItem("keras-graft-theme");
    } catch {
      return null;
    }
  }

  function set(theme) {
    root.dataset.theme = theme;
    try {
      localStorage.setItem("keras-graft-theme", theme);
    } catch {
      return;
    }
  }

  if (["dark", "light"].includes(kept())) root.dataset.theme = kept();
  return { turn: () => set(isDark() ? "light" : "dark") };
})();

for (const button of document.querySelectorAll("[data-act=theme]")) {
  if (!document.getElementById("scene")) button.addEventListener("click", Theme.turn);
}
