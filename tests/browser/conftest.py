"""A headless Chromium, and the page of a trace in it: no error on its console, no request but for the file itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.conftest import device_kind, find_chromium
from tests.traced_runs import crowded_toy
from tools.trace.page import write_page
from tools.trace.recording import Recording

if TYPE_CHECKING:
    from playwright.sync_api import Page

# A browser of a test must not talk to anybody.
QUIET = (
    "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip

OpenPage = Callable[..., "Page"]


@pytest.fixture(scope="session")
def tab() -> Iterator[Page]:
    """One tab of one browser for the session: a new one for each test would take longer than the tests."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=list(QUIET))
        yield browser.new_page()
        browser.close()


@pytest.fixture
def said(tab: Page) -> Iterator[list[str]]:
    """What the browser's console says during a test, errors and dialogs too."""
    lines: list[str] = []
    listeners = {
        "console": lambda message: lines.append(message.text),
        "pageerror": lambda error: lines.append(str(error)),
        "dialog": lambda dialog: lines.append(f"dialog: {dialog.message}"),
    }
    for event, listener in listeners.items():
        tab.on(event, listener)  # type: ignore[call-overload]
    yield lines
    for event, listener in listeners.items():
        tab.remove_listener(event, listener)


@pytest.fixture
def open_page(tab: Page, said: list[str], tmp_path: Path) -> Iterator[OpenPage]:
    """`open_page(recording, width=1280, height=800, scheme="light")`: write its page, and open it from disk.

    At the end nothing may have been said on the console, and nothing but the files have been asked for.
    """
    asked: list[str] = []
    files: list[str] = []

    def ask(request: object) -> None:
        asked.append(request.url)  # type: ignore[attr-defined]

    def open_(recording: Recording, width: int = 1280, height: int = 800, scheme: str = "light") -> Page:
        path = tmp_path / f"page-{len(files)}.html"
        write_page(recording, path)
        files.append(path.as_uri())
        tab.set_viewport_size({"width": width, "height": height})
        tab.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        tab.mouse.move(0, 0)
        tab.goto(files[-1])
        tab.wait_for_selector("body[data-ready]")
        return tab

    tab.on("request", ask)
    yield open_
    tab.remove_listener("request", ask)
    assert not said, said
    assert asked == files


@pytest.fixture(scope="session")
def toy(request: pytest.FixtureRequest) -> Recording:
    """A real run with shared prefixes, copy-on-write and preemption."""
    return crowded_toy(device_kind(request.config))
