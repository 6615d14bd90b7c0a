"""ComfyUI's own web interface in headless Chromium, for programs that see what users see."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from scripts.browser import BROWSERS, find_browser

# No updates, no synchronisation, no look-ups.
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
PAGE_SCRIPT = Path(__file__).with_name("page.js")
READY = "() => !!(window.app && app.graph && LiteGraph.registered_node_types['Kandinsky22Prior'])"


# Otherwise the template browser greets a new user, after everything else.
SETTINGS = {
    "Comfy.TutorialCompleted": True,
    "Comfy.RightSidePanel.IsOpen": False,
    "Comfy.VueNodes.Enabled": False,  # the classic renderer; True is Nodes 2.0
}


@contextmanager
def open_page(url: str, width: int = 1600, height: int = 1000, **settings) -> Iterator[Page]:
    """Open the web interface of a running server, with this pack's nodes loaded.

    settings: set for the server's user, with _ for each dot in their names.
    """
    browser_path = find_browser()
    if browser_path is None:
        raise FileNotFoundError(f"No Chromium or Chrome found (looked for {', '.join(BROWSERS)}).")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=list(FLAGS))
        try:
            page = browser.new_page(viewport={"width": width, "height": height})
            page.set_default_timeout(20_000)
            page.add_init_script(path=PAGE_SCRIPT)
            named = {name.replace("_", "."): value for name, value in settings.items()}
            page.request.post(f"{url}/settings", data=SETTINGS | named)
            page.goto(url)
            page.wait_for_function(READY, timeout=60_000)
            page.wait_for_timeout(1000)
            yield page
        finally:
            browser.close()
