"""The page of a trace in a browser: KV pages, batches and memory, step by step, against the notes themselves."""

from __future__ import annotations

from typing import Any

import pytest

from tests.browser.conftest import OpenPage
from tests.browser.page_driver import until
from tools.trace.recording import Recording

pytestmark = pytest.mark.needs_chromium


def tables_of(steps: list[dict[str, Any]]) -> list[dict[int, list[int]]]:
    """The block tables in each step, from its notes: written down a second time, here, to hold the page against."""
    tables: dict[int, list[int]] = {}
    result = []
    for note in steps:
        gone = set(note["released"] + note["preempted"])
        tables = {request: pages for request, pages in tables.items() if request not in gone}
        tables |= {int(request): pages for request, pages in note["tables"].items()}
        result.append(tables)
    return result


def test_the_slider_shows_who_holds_which_page(open_page: OpenPage, toy: Recording) -> None:
    steps = list(toy.steps)
    assert any(note["copies"] for note in steps) and any(note["preempted"] for note in steps)
    page = open_page(toy)
    page.click("#tab-pages")
    for index, (note, tables) in enumerate(zip(steps, tables_of(steps), strict=True)):
        page.locator("#pages input[type=range]").fill(str(index))
        holders: dict[int, set[int]] = {}
        for request, pages in tables.items():
            for number in pages:
                holders.setdefault(number, set()).add(request)
        shown, cached = page.evaluate(
            """() => {
              const { holders, now } = cutaway.pages.grid;
              return [[...holders].map(([page, all]) => [page, all.map(({ request }) => request)]), [...now.cached]];
            }"""
        )
        assert {number: set(requests) for number, requests in shown} == holders
        assert sorted(cached) == sorted(note["cached"])
        assert page.inner_text("#pages .caption").startswith(f"step {note['step']} · ")
        listed = page.locator("#pages .sequence b").all_inner_texts()
        assert [int(text) for text in listed] == sorted(tables) + [r for r in note["preempted"] if r not in tables]


def test_the_grid_is_drawn_anew_for_each_step(open_page: OpenPage, toy: Recording) -> None:
    steps = list(toy.steps)
    page = open_page(toy)
    page.click("#tab-pages")
    copied = next(i for i, note in enumerate(steps) if note["copies"])
    preempted = next(i for i, note in enumerate(steps) if note["preempted"])
    pictures, events = [], []
    for index in (copied - 1, copied, preempted):
        page.locator("#pages input[type=range]").fill(str(index))
        pictures.append(page.locator("#pages canvas").screenshot())
        events.append(page.inner_text("#pages .events"))
    assert len(set(pictures)) == 3
    page.keyboard.press("1")
    assert page.locator("#tree").is_visible(), "a slider takes no letters: keys go on working"
    page.evaluate("cutaway.state.view.show(cutaway.trace.begin, cutaway.trace.begin + 10)")
    page.keyboard.press("]")
    shown = page.evaluate("cutaway.timeline.barOfStep(cutaway.trace.notes[cutaway.state.step.value].name)")
    view = page.evaluate("[cutaway.state.view.from, cutaway.state.view.to]")
    assert view[0] <= shown["start"] and shown["stop"] <= view[1], "the timeline follows to the step"
    source, target, tokens = steps[copied]["copies"][0]
    assert f"copy-on-write: {tokens} tokens of page {source} to page {target}" in events[1]
    assert f"request {steps[preempted]['preempted'][0]} preempted" in events[2]


def test_a_page_and_a_sequence_tell_all(open_page: OpenPage, toy: Recording) -> None:
    steps = list(toy.steps)
    page = open_page(toy)
    page.click("#tab-pages")
    page.locator("#pages input[type=range]").fill("1")
    tables = tables_of(steps)[1]
    request = max(tables, key=lambda one: len(tables[one]))
    page.click(f"#pages .sequence:has(b:text-is('{request}'))")
    rows = page.locator("#inspector table tbody tr").all_inner_texts()
    assert [f"page {number}" in row for number, row in zip(tables[request], rows, strict=True)] == [True] * len(rows)
    page.locator("#inspector input[type=number]").fill("17")
    number = tables[request][1]
    answer = page.inner_text("#inspector .answer")
    assert f"page {number}, slot 1 in it: slot {16 * number + 1} of the pool" in answer
    # Layer 0's keys are the first [P, 2 heads, 16, 64] of bf16 in kv_pages.
    assert f"keys of layer 0, KV head 0: kv_pages+0x{(number * 2 * 16 + 1) * 128:x}, 128 bytes" in answer
    page.focus("#pages canvas")
    page.keyboard.press("Enter")  # the first cell
    holders = [one for one in tables if 0 in tables[one]]
    assert page.inner_text("#inspector h2") == "page 0"
    assert f"shared by {len(holders)} sequences" in page.inner_text("#inspector")


def test_play_runs_through_the_steps(open_page: OpenPage, toy: Recording) -> None:
    page = open_page(toy)
    page.click("#tab-pages")
    page.click("#pages .play")
    until(page, "cutaway.state.step.value >= 2")
    page.click("#pages .play")
    assert page.inner_text("#pages .play") == "▶ Play"


def test_batches_tell_who_ran(open_page: OpenPage, toy: Recording) -> None:
    steps = list(toy.steps)
    page = open_page(toy)
    page.click("#tab-batch")
    page.focus("#batch canvas")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    assert page.evaluate("cutaway.state.step.value") == 1
    assert page.inner_text("#inspector h2") == f"step {steps[1]['step']}"
    listed = page.locator("#inspector table tbody tr").all_inner_texts()
    ran = [f"request {request} decodes position {position}" for request, position in steps[1]["decodes"]]
    assert [" ".join(text.split()) for text in listed] == ran
    box = page.locator("#batch canvas").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 96 + 4, box["y"] + 20)
    tokens = sum(stop - start for _, start, stop in steps[0]["prefills"])
    assert f"{len(steps[0]['prefills'])} prefills of {tokens} tokens" in page.inner_text("#tooltip")


def test_memory_has_its_high_water_mark(open_page: OpenPage, toy: Recording) -> None:
    total = peak = 0
    for event in toy.calls:
        if event["call"] in ("cuMemAlloc", "cuMemFree"):
            total += event["nbytes"] if event["call"] == "cuMemAlloc" else -event["nbytes"]
            peak = max(peak, total)
    page = open_page(toy)
    page.click("#tab-memory")
    assert (
        page.evaluate(
            "(() => { const m = new MemoryPanel(Dom.make('div'), cutaway.state); return m.total[m.peak]; })()"
        )
        == peak
    )
    shown = page.inner_text("#memory")
    assert "High-water mark" in shown and "KV pages" in shown and "cublas.workspace" in shown
    page.click("#memory button:has-text('kv_pages')")
    assert "kv_pages" in page.inner_text("#inspector") and "cuMemAlloc" in page.inner_text("#inspector")
