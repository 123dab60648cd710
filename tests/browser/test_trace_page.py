"""The page of a trace in a browser: its timeline, a launch in full, the tree, and a hundred thousand events."""

from __future__ import annotations

import pytest

from tests.browser.conftest import OpenPage
from tests.browser.page_driver import place_of, small, until, visible
from tests.large_trace import HEADER, header, large_trace, launch
from tools.trace.recording import Recording

pytestmark = pytest.mark.needs_chromium

DASH, TIMES = "\N{EN DASH}", "\N{MULTIPLICATION SIGN}"
COUNT_DRAWING = """() => {
window.drawn = 0;  // from now on
for (const name of ["fillRect", "strokeRect", "fillText", "fill", "stroke"]) {
  const draw = CanvasRenderingContext2D.prototype[name];
  CanvasRenderingContext2D.prototype[name] = function (...all) { window.drawn += 1; return draw.apply(this, all); };
}
}"""


def test_loads_and_says_what_ran(open_page: OpenPage) -> None:
    page = open_page(small())
    assert page.title() == f"{HEADER['command']} · Cutaway trace"
    bar = page.inner_text("#bar")
    assert HEADER["command"] in bar and "Made-up GPU (sm_90)" in bar and "cupti" in bar
    assert page.inner_text("#notices") == ""
    assert "40" in page.inner_text("#inspector"), "of 40 calls"


def test_wheel_zooms_where_the_pointer_is(open_page: OpenPage) -> None:
    page = open_page(small())
    x, y = place_of(page, "call", 20)
    before = visible(page)
    page.mouse.move(x, y)
    page.mouse.wheel(0, -400)
    until(page, f"cutaway.state.view.width < {(before[1] - before[0]) * 0.7}")
    assert before[0] < visible(page)[0] and visible(page)[1] < before[1]
    assert abs(place_of(page, "call", 20)[0] - x) <= 1, "what is under the pointer stays there"
    zoomed = visible(page)
    page.mouse.down()
    page.mouse.move(x - 100, y, steps=4)
    page.mouse.up()
    assert visible(page)[0] > zoomed[0]
    assert visible(page)[1] - visible(page)[0] == pytest.approx(zoomed[1] - zoomed[0])


def test_keys_move_and_zoom(open_page: OpenPage) -> None:
    page = open_page(small())
    whole = visible(page)
    page.focus("#timeline-canvas")
    for key, grows in (("ArrowUp", False), ("w", False), ("s", True), ("ArrowDown", True)):
        before = visible(page)
        page.keyboard.press(key)
        width = visible(page)[1] - visible(page)[0]
        assert (width > before[1] - before[0]) is grows, key
    page.keyboard.press("w")
    for key, right in (("ArrowRight", True), ("d", True), ("a", False), ("ArrowLeft", False)):
        before = visible(page)
        page.keyboard.press(key)
        assert (visible(page)[0] > before[0]) is right, key
    page.keyboard.press("Home")
    assert visible(page)[0] <= whole[0] and visible(page)[1] >= whole[1]


def test_a_click_shows_a_launch_with_its_source(open_page: OpenPage) -> None:
    page = open_page(small())
    page.mouse.click(*place_of(page, "call", 10))  # the first of step 1
    shown = page.inner_text("#inspector")
    assert "cuLaunchKernel #11" in shown and "step 1 / decode / layer 0 / attention" in shown
    assert "activations.normed:bf16[4,\u00a02048]" in shown or "bf16[4, 2048]" in shown.replace("\u200b", "")
    assert "BLOCK_THREADS=256" in shown and "engine/models/llama.py:160" in shown and "40 a thread" in shown
    assert "65.5 kB at 21.8 GB/s, 0.7 % of what this device does" in shown
    marked = page.inner_text("#inspector .line.here")
    assert "add_rmsnorm(bf16* __restrict__ out" in marked, "the source opens at the kernel"
    line, box = ("document.querySelector('#inspector .line.here')", "document.querySelector('#inspector .code')")
    above = f"({line}.offsetTop - {box}.scrollTop)"
    until(page, f"{above} > 0 && {above} < 400")
    page.select_option("#inspector select", "include/reduce.cuh")
    assert "block_sum" in page.inner_text("#inspector .code")
    assert page.evaluate("cutaway.state.step.value") == 1, "the other panels follow to its step"
    focused = page.inner_text("#tree .tree-row.focused")
    assert focused.startswith("add_rmsnorm"), "and so does the tree"


def test_the_roofline_places_a_launch_between_its_limits(open_page: OpenPage) -> None:
    page = open_page(small())
    page.evaluate("cutaway.state.selectCall(0)")
    # 2 FLOP a byte at 3.0e12 B/s: at most 6.0e12 FLOP/s; it made 131072 in 3 us, 0.73 % of that.
    assert "2 FLOP for each byte: memory is the limit, and it reaches 0.7 % of it" in page.inner_text("#inspector")
    assert page.locator("#inspector .roofline .roof").count() == 1
    assert page.locator("#inspector .roofline .other").count() == 8  # 2 layers, 4 steps
    page = open_page(Recording(header(rates=None), small().records))
    page.evaluate("cutaway.state.selectCall(0)")
    assert "limits of this device are not known" in page.inner_text("#inspector")
    assert page.locator("#inspector .roofline .roof").count() == 0


def test_hovering_tells_what_is_there(open_page: OpenPage) -> None:
    page = open_page(small())
    page.mouse.move(*place_of(page, "ran", 3))
    assert page.inner_text("#tooltip").startswith("decode_attention\n14 µs\ndecode_attention on stream 1")
    page.mouse.move(5, 5)
    assert page.locator("#tooltip").is_hidden()


@pytest.mark.parametrize(("overlap_us", "rows"), [(0.6, 1), (2.0, 2)])
def test_an_overlap_that_the_clock_cannot_tell_is_none(open_page: OpenPage, overlap_us: float, rows: int) -> None:
    first = launch(1, 0.0, "rmsnorm", "step 1 / decode", 10.0, 3.0)
    second = launch(2, 1.0, "argmax", "step 1 / decode", 13.0 - overlap_us, 2.0)
    page = open_page(Recording(header(), [first, second]))
    lanes = page.evaluate(
        "cutaway.timeline.lanes.filter(lane => lane.kind === 'ran').map(lane => [[...lane.start], [...lane.stop]])"
    )
    assert len(lanes) == rows
    assert rows == 2 or lanes[0][1] == pytest.approx([13.0 - overlap_us, 15.0 - overlap_us])
    page.mouse.move(*place_of(page, "ran", 0))
    assert page.inner_text("#tooltip").startswith("rmsnorm\n3 µs")  # its own time, not that of the bar


def test_a_stream_that_no_label_speaks_of_has_one_lane(open_page: OpenPage) -> None:
    outside, inside = (launch(n, 10.0 * n, "rmsnorm", label, 10.0 * n, 3.0) for n, label in ((1, ""), (2, "step 1")))
    inside["activities"][0]["stream"] = "stream 2"
    page = open_page(Recording(header(), [outside, inside]))
    titles = page.evaluate("cutaway.timeline.lanes.map(lane => lane.title)")
    assert titles == ["step", "host calls", "stream 1", "stream 2", "device at"]


def test_a_product_is_told_in_row_major_words(open_page: OpenPage, toy: Recording) -> None:
    page = open_page(toy)
    row = next(
        i for i, event in enumerate(toy.calls) if event["call"] == "cublasGemmEx" and "layer 0" in event["label"]
    )
    event = list(toy.calls)[row]
    page.evaluate("row => cutaway.state.selectCall(row)", row)
    shown, sizes = page.inner_text("#inspector"), event["sizes"]
    assert f"out[{sizes['m']}, {sizes['n']}] = a[{sizes['m']}, {sizes['k']}]" in shown
    assert "CUBLAS_OP_T" in shown and event["args"]["lda"] in shown and "Why the operands are swapped" in shown


def test_kernels_of_a_graph_belong_to_their_layers(open_page: OpenPage, toy: Recording) -> None:
    calls = list(toy.calls)
    row = next(
        i for i, event in enumerate(calls) if event["call"] == "cuGraphLaunch" and event["label"] == "step 5 / decode"
    )
    ran = calls[row]["activities"]
    place = next(i for i, activity in enumerate(ran) if activity["name"] == "decode_attention")
    page = open_page(toy)
    page.evaluate("([row, i]) => cutaway.state.selectRan(cutaway.trace.firstRan[row] + i)", [row, place])
    shown = page.inner_text("#inspector")
    assert "step 5 / decode / layer 0 / attention" in shown and "inside a graph" in shown
    assert f"cuLaunchKernel #{ran[place]['of']}" in shown, "the call that was captured"
    assert "decode_attention(" in page.inner_text("#inspector .line.here")
    way = "['step 5', 'decode', 'layer 1', 'attention', 'decode_attention']"
    page.evaluate(f"cutaway.tree.select(cutaway.state.root.descend({way}))")
    shown = page.inner_text("#inspector")
    assert "step 5 / decode / layer 1 / attention" in shown and "inside a graph" in shown, (
        "not the call that was captured"
    )
    page.evaluate("row => cutaway.state.selectCall(row)", row)
    assert f"Ran on the device ({len(ran)})".lower() in page.inner_text("#inspector").lower()


def test_the_tree_folds_sorts_and_sums(open_page: OpenPage) -> None:
    page = open_page(small())
    page.focus("#tree .rows")
    for key in ("Home", "ArrowRight", "ArrowDown", "ArrowRight", "ArrowDown"):
        page.keyboard.press(key)
    rows = page.locator("#tree .rows .tree-row")
    texts = rows.all_inner_texts()
    assert [text.split("\n")[0] for text in texts] == [
        "step 0",
        "decode",
        f"layers 0{DASH}1",
        "step 1",
        "step 2",
        "step 3",
    ]
    assert texts[2].split("\n")[1:] == [
        f"{TIMES}2",
        "10",
        "20 µs",
        "10",
        "64 µs",
        "403 GB/s",
    ]  # 2 layers of 12,886,016 bytes
    assert rows.nth(2).get_attribute("aria-level") == "3" and rows.nth(0).get_attribute("aria-expanded") == "true"
    page.uncheck("text=Fold equal layers")
    assert "layer 1" in page.inner_text("#tree .rows")
    page.click("text=Close all")
    page.check("text=Fold equal steps")
    assert page.inner_text("#tree .rows").split("\n")[:2] == [f"steps 0{DASH}3", f"{TIMES}4"]
    page.focus("#tree .rows")
    for key in ("ArrowRight", "ArrowDown", "ArrowRight", "ArrowDown", "ArrowRight", "ArrowDown", "ArrowRight"):
        page.keyboard.press(key)
    page.click("#tree .heading .device")
    names = [text.split("\n")[0] for text in rows.all_inner_texts()]
    assert names[4:8] == ["decode_attention", "gemm", "add_rmsnorm", "rope_kv_write"], "most device time first"


def test_a_large_tree_has_few_rows_in_the_document(open_page: OpenPage) -> None:
    page = open_page(large_trace(num_layers=1, num_steps=500))
    page.uncheck("text=Fold equal layers")
    assert page.evaluate("cutaway.tree.rows.length") == 500
    assert page.locator("#tree .rows .tree-row").count() < 60
    page.focus("#tree .rows")
    page.keyboard.press("End")
    assert page.inner_text("#tree .tree-row.focused").startswith("step 499")


def test_a_hundred_thousand_events_draw_no_more_than_the_pixels_need(open_page: OpenPage) -> None:
    recording = large_trace(num_layers=16, num_steps=640)
    page = open_page(recording)
    page.evaluate(COUNT_DRAWING)
    calls, activities = page.evaluate("[cutaway.trace.numCalls, cutaway.trace.numActivities]")
    assert calls + activities >= 100_000
    page.focus("#timeline-canvas")
    lanes, width = page.evaluate("[cutaway.timeline.lanes.length, cutaway.timeline.canvas.clientWidth]")
    drawn = []
    for key in ("Home", *["w"] * 12):
        page.keyboard.press(key)
        drawn.append(page.evaluate("window.drawn = 0, cutaway.timeline.surface.now(), window.drawn"))
    # A bar takes a pixel at least; beside the lanes stand a ruler and a few marks.
    assert max(drawn) <= (lanes + 1) * width
    assert page.evaluate("cutaway.state.view.width") < 3_000, "microseconds: at the end single kernels are seen"
    x, y = place_of(page, "call", page.evaluate("Sorted.lower(cutaway.trace.start, cutaway.state.view.from) + 3"))
    page.mouse.click(x, y)
    assert "cuLaunchKernel" in page.inner_text("#inspector")
    page.locator("#tab-pages").click()
    page.locator("#pages input[type=range]").fill("639")
    assert page.evaluate("[...cutaway.pages.grid.now.tables.get(0)]") == list(range(40))
