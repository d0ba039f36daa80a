"""Pages in a browser. A word on the console, a request or a violation of the policy fails a test."""

import os
from pathlib import Path

import pytest

from keras_graft.display.page import page as html_of

CHROMIUM = "/usr/bin/chromium"
QUIET = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip


@pytest.fixture(scope="module")
def browser():
    if not Path(CHROMIUM).exists():
        missing = f"There is no browser at {CHROMIUM}: install the package chromium."
        (pytest.fail if os.environ.get("CI") else pytest.skip)(missing)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield chromium
        chromium.close()


@pytest.fixture
def opened(browser, tmp_path):
    """A function that opens the page of a scene, or a text that is HTML, and returns it in Playwright."""
    contexts, wrong = [], []

    def open_(scene, width=1300, height=850, **options):
        text = scene if isinstance(scene, str) else html_of(scene)
        path = tmp_path / f"page{len(contexts)}.html"
        path.write_text(text, encoding="utf-8")
        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(60_000)
        address = path.as_uri()
        own = (address, "about:", "blob:")
        page.on("console", lambda said: wrong.append(f"console: {said.type} {said.text}"))
        page.on("pageerror", lambda error: wrong.append(f"error: {error}"))
        page.on(
            "dialog", lambda dialog: (wrong.append(f"dialog: {dialog.message}"), dialog.dismiss())
        )
        page.on("request", lambda r: r.url.startswith(own) or wrong.append(f"request: {r.url}"))
        page.on(
            "framenavigated", lambda f: f.url.startswith(own) or wrong.append(f"went to {f.url}")
        )
        page.goto(address)
        if not isinstance(scene, str):
            page.wait_for_selector("html[data-ready=yes]")
        return page

    open_.wrong = wrong
    yield open_
    for context in contexts:
        context.close()
    assert not wrong, "\n".join(wrong)
