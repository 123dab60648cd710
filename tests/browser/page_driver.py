"""What the tests of the page share: a small trace, and finding one's way on the timeline."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from tests.large_trace import large_trace
from tools.trace.recording import Recording

if TYPE_CHECKING:
    from playwright.sync_api import Page


def small() -> Recording:
    """Two layers, four steps: 40 launches of 10 a step."""
    return large_trace(num_layers=2, num_steps=4)


def until(page: Page, expression: str) -> None:
    """Wait for what the browser does in its own time; Playwright's own way is an eval, which a page forbids."""
    deadline = time.monotonic() + 20
    while not page.evaluate(expression):
        assert time.monotonic() < deadline, f"never came true: {expression}"
        time.sleep(0.02)


def visible(page: Page) -> tuple[float, float]:
    """The range of time that the timeline shows."""
    start, stop = page.evaluate("[cutaway.state.view.from, cutaway.state.view.to]")
    return start, stop


def place_of(page: Page, kind: str, item: int) -> tuple[float, float]:
    """Where on the screen the middle of a bar lies: of a call by its row, of an activity by its number."""
    x, y = page.evaluate(
        """([kind, item]) => {
          const { timeline, trace } = cutaway, box = timeline.canvas.getBoundingClientRect();
          const [starts, stops] = kind === "call" ? [trace.start, trace.stop] : [trace.ranStart, trace.ranStop];
          const [start, stop] = [starts[item], stops[item]];
          const painter = timeline.painter(null, box.width);
          return [box.left + painter.x((start + stop) / 2), box.top + timeline.placeOf(kind, item, start).y + 8];
        }""",
        [kind, item],
    )
    return x, y
