"""A tab of headless Chromium with the page in it: what it shows, what it asked for, what went wrong in it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from pages import until
from parts import program
from playwright.sync_api import Browser, ConsoleMessage, sync_playwright
from playwright.sync_api import Page as BrowserPage

PHONE = {"width": 390, "height": 844}
SCREEN = {"width": 1440, "height": 900}
_PATIENCE_MILLISECONDS = 180_000

# everything shown with the name of its field in the API, and the state that the server has at that moment
_VALUES = """async () => {
  const answer = await fetch("/api/state");
  const state = await answer.json();
  if (String(state.now) !== document.body.dataset.at) return null;
  const read = (root) => Object.fromEntries(
    [...root.querySelectorAll("[data-field]")].map(({ dataset, textContent }) => [
      dataset.field, [dataset.value, textContent]]));
  const all = (selector, key) => Object.fromEntries(
    [...document.querySelectorAll(selector)].map((e) => [e.dataset[key], read(e)]));
  return {
    state,
    run: read(document.getElementById("run")),
    functions: all("article.function", "function"),
    invocations: all("#invocations tbody tr", "function"),
    peers: all(".lane", "peer"),
  };
}"""

# text that is cut off, covered by other text, outside the window, too small, or too faint (WCAG 2.2, 1.4.3)
_ILLEGIBLE = """() => {
  const found = [];
  const pieces = [];
  const channels = (text) => (text.match(/[\\d.]+/g) ?? []).map(Number);
  const luminance = ([r, g, b]) => [r, g, b]
    .map((c) => c / 255)
    .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const color = channels(getComputedStyle(e).backgroundColor);
      if (color.length === 3 || color[3] > 0) return color;
    }
    return [255, 255, 255];
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode;
    const element = node.parentElement;
    const text = node.textContent.trim();
    if (!text || element.closest("noscript")) continue;
    if (!element.checkVisibility({ visibilityProperty: true })) continue;
    const style = getComputedStyle(element);
    if (parseFloat(style.fontSize) < 11) found.push(`small: ${text}`);
    const pair = [luminance(channels(style.color)), luminance(ground(element))].sort((a, b) => a - b);
    const contrast = (pair[1] + 0.05) / (pair[0] + 0.05);
    if (contrast < 4.5) found.push(`faint (${contrast.toFixed(2)}): ${text}`);
    const isCut = style.overflow !== "visible" && element.scrollWidth > element.clientWidth + 1;
    if (isCut) found.push(`cut: ${text}`);
    const range = document.createRange();
    range.selectNodeContents(node);
    const scrolled = element.closest(".wide")?.getBoundingClientRect() ?? { left: 0, right: Infinity };
    for (const { left, right, top, bottom } of range.getClientRects()) {
      if (left >= scrolled.right || right > scrolled.right) continue;
      if (left < 0 || right > innerWidth + 0.5) found.push(`outside: ${text}`);
      pieces.push({ text, left, right, top, bottom });
    }
  }
  pieces.forEach((a, i) => pieces.slice(i + 1).forEach((b) => {
    const width = Math.min(a.right, b.right) - Math.max(a.left, b.left);
    const height = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
    if (width > 1 && height > 4) found.push(`over each other: ${a.text} | ${b.text}`);
  }));
  if (document.documentElement.scrollWidth > innerWidth) found.push("the page scrolls sideways");
  if (pieces.length < 20) found.push(`only ${pieces.length} pieces of text`);
  return found;
}"""


@dataclass
class Tab:
    """One browser with one page."""

    page: BrowserPage
    errors: list[str] = field(default_factory=list)
    hosts: set[str] = field(default_factory=set)

    def text(self, selector: str) -> str:
        """Return the text that an element shows, nothing if it is hidden."""
        found = self.page.locator(selector)
        return (found.inner_text() or "").strip() if found.count() and found.is_visible() else ""

    def values(self) -> dict[str, Any]:
        """Return what the page shows, and what the API says at that very state."""
        found: dict[str, Any] = until(lambda: self.page.evaluate(_VALUES))
        return found

    def illegible(self) -> list[str]:
        """Return what a person could not read, and why."""
        found: list[str] = self.page.evaluate(_ILLEGIBLE)
        return found


@contextmanager
def chromium() -> Iterator[Browser]:
    """Give the block headless Chromium."""
    path = program("chromium", "install Debian's package chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


def open_tab(browser: Browser, url: str, size: dict[str, int] = SCREEN, theme: str = "light") -> Tab:
    """Return a tab that shows a first state."""
    tab = open_file(browser, url, size, theme)
    until(lambda: tab.page.evaluate("document.body.dataset.at"))
    return tab


def open_file(browser: Browser, url: str, size: dict[str, int] = SCREEN, theme: str = "light") -> Tab:
    """Return a tab that has loaded a page."""
    context = browser.new_context(viewport=size, color_scheme=theme)  # type: ignore[arg-type]
    context.set_default_timeout(_PATIENCE_MILLISECONDS)
    tab = Tab(context.new_page())

    def note(message: ConsoleMessage) -> None:
        # a connection that is refused is told by the browser itself, whatever the page does about it
        if message.type in ("error", "warning") and "net::ERR_" not in message.text:
            tab.errors.append(message.text)

    tab.page.on("console", note)
    tab.page.on("pageerror", lambda error: tab.errors.append(str(error)))
    tab.page.on("dialog", lambda dialog: tab.errors.append(f"a dialog: {dialog.message}"))
    tab.page.on("request", lambda request: tab.hosts.add(urlsplit(request.url).netloc))
    tab.page.goto(url)
    return tab
