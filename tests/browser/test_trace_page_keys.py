"""The page of a trace in a browser: searching, light and dark, and everything without a mouse."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.browser.conftest import OpenPage
from tests.browser.page_driver import small
from tools.trace.recording import Recording

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.needs_chromium


def test_search_finds_and_walks(open_page: OpenPage) -> None:
    page = open_page(small())
    page.keyboard.press("/")
    page.keyboard.type("silu_mul layer 1")
    assert page.inner_text("#matches") == "4 calls"
    page.keyboard.press("Enter")
    assert "silu_mul" in page.inner_text("#inspector h2") and page.inner_text("#matches") == "1 of 4 calls"
    page.keyboard.press("Enter")
    assert "step 1 / decode / layer 1 / mlp" in page.inner_text("#inspector")
    page.keyboard.press("Shift+Enter")
    assert "step 0 / decode / layer 1 / mlp" in page.inner_text("#inspector")
    page.keyboard.press("Escape")
    assert page.inner_text("#matches") == "" and page.input_value("#search") == ""
    page.fill("#search", "no such thing")
    assert page.inner_text("#matches") == "nothing found"


def luminance(page: Page) -> float:
    """Of the page's ground, from 0 to 255."""
    red, green, blue = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_dark_as_the_system_has_it_and_by_choice(open_page: OpenPage) -> None:
    page = open_page(small(), scheme="dark")
    assert luminance(page) < 60
    page.emulate_media(color_scheme="light")
    assert luminance(page) > 200
    page.keyboard.press("t")
    assert page.inner_text("#theme") == "Theme: light" and luminance(page) > 200
    page.click("#theme")
    assert page.inner_text("#theme") == "Theme: dark" and luminance(page) < 60


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_is_read_well(open_page: OpenPage, scheme: str) -> None:
    """The contrast that WCAG AA asks for, 4.5 to 1, of each colour of text on each ground that it stands on."""
    page = open_page(small(), scheme=scheme)
    contrasts = page.evaluate(
        """() => {
          const light = (name) => {
            const at = (i) => { const v = parseInt(Palette.css(name).slice(i, i + 2), 16) / 255;
              return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; };
            return 0.2126 * at(1) + 0.7152 * at(3) + 0.0722 * at(5); };
          const texts = ["--text", "--muted", "--accent", "--bad", "--comment", "--keyword", "--cuda", "--literal"];
          return texts.flatMap((text) => ["--panel", "--raised"].map((ground) => {
            const [a, b] = [light(text), light(ground)];
            return [`${text} on ${ground}`, (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05)]; }));
        }"""
    )
    assert [name for name, contrast in contrasts if not contrast >= 4.5] == []


def test_everything_can_be_reached_by_keys(open_page: OpenPage, toy: Recording) -> None:
    page = open_page(toy)
    reached = []
    for _ in range(24):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.className"))
    for stop in ("search", "theme", "help-button", "zoom-steps", "timeline-canvas", "tab-tree", "rows", "inspector"):
        assert stop in reached, f"{stop} is not among {reached}"
    page.focus("#timeline-canvas")
    page.keyboard.press("Enter")  # nothing is selected: the first call in sight
    assert page.locator("#inspector h2").inner_text() != "This trace"
    page.keyboard.press(".")
    selected = page.evaluate("cutaway.state.selected.value.row")
    page.keyboard.press(",")
    assert page.evaluate("cutaway.state.selected.value.row") == selected - 1
    width = page.evaluate("cutaway.state.view.width")
    page.keyboard.press("Enter")
    assert page.evaluate("cutaway.state.view.width") < width, "Enter zooms to what is selected"
    page.keyboard.press("2")
    assert page.locator("#pages").is_visible() and page.locator("#tree").is_hidden()
    step = page.evaluate("cutaway.state.step.value")
    page.keyboard.press("]")
    assert page.evaluate("cutaway.state.step.value") == step + 1
    page.focus("#tab-pages")
    page.keyboard.press("ArrowRight")
    assert page.locator("#batch").is_visible()
    page.keyboard.press("?")
    assert page.locator("#help").is_visible()
    page.keyboard.press("Escape")
    assert page.locator("#help").is_hidden()
    page.keyboard.press("Escape")
    assert page.inner_text("#inspector h2") == "This trace"


def test_nothing_is_cut_off_sideways(open_page: OpenPage, toy: Recording) -> None:
    page = open_page(toy)
    for width, height in ((1280, 800), (2560, 1200), (800, 900)):
        page.set_viewport_size({"width": width, "height": height})
        for tab in ("tree", "pages", "batch", "memory"):
            page.click(f"#tab-{tab}")
            assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), (width, tab)
            box = page.locator(f"#{tab}").bounding_box()
            assert box is not None and box["height"] > 200 and box["x"] + box["width"] <= width
