// Light, dark, or what the system says. The choice stays in this browser.

import { byId } from "./dom.js";

const KEY = "peerless-theme";
const NEXT = { system: "light", light: "dark", dark: "system" };

/** Make the button work; `onChange` is called whenever colours are others than before. */
export function startTheme(onChange) {
  const button = byId("theme");
  const system = matchMedia("(prefers-color-scheme: dark)");
  let chosen = remembered();

  function apply() {
    document.documentElement.dataset.theme = chosen === "system" ? (system.matches ? "dark" : "light") : chosen;
    button.textContent = { system: "◐ auto", light: "○ light", dark: "● dark" }[chosen];
    button.setAttribute("aria-label", `colours: ${chosen}; change`);
    onChange();
  }

  button.addEventListener("click", () => {
    chosen = NEXT[chosen];
    try {
      localStorage.setItem(KEY, chosen);
    } catch {
      // a browser that keeps nothing: the choice lasts as long as the page
    }
    apply();
  });
  system.addEventListener("change", apply);
  apply();
}

function remembered() {
  try {
    const found = localStorage.getItem(KEY);
    return found in NEXT ? found : "system";
  } catch {
    return "system";
  }
}
