"""The page of a trace in a browser: what a reader sees, clicks and types."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.browser.conftest import OpenPage
from tests.conftest import device_kind
from tests.large_trace import HEADER, call, header, large_trace, launch, step_note
from tests.traced_runs import crowded_toy
from tools.trace.recording import Recording

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.needs_chromium

COUNT_DRAWING = """() => {
window.drawn = 0;  // from now on
for (const name of ["fillRect", "strokeRect", "fillText", "fill", "stroke"]) {
  const draw = CanvasRenderingContext2D.prototype[name];
  CanvasRenderingContext2D.prototype[name] = function (...all) { window.drawn += 1; return draw.apply(this, all); };
}
}"""


@pytest.fixture(scope="session")
def toy(request: pytest.FixtureRequest) -> Recording:
    """A real run with shared prefixes, copy-on-write and preemption."""
    return crowded_toy(device_kind(request.config))


def until(page: Page, expression: str) -> None:
    """Wait for something that the browser does in its own time. (Playwright's own way is an eval, which pages forbid.)"""
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
          const { timeline, trace, state } = cutaway, box = timeline.canvas.getBoundingClientRect();
          const [start, stop] = kind === "call" ? [trace.start[item], trace.stop[item]] : [trace.ranStart[item], trace.ranStop[item]];
          const painter = timeline.painter(null, box.width);
          return [box.left + painter.x((start + stop) / 2), box.top + timeline.placeOf(kind, item, start).y + 8];
        }""",
        [kind, item],
    )
    return x, y


def small() -> Recording:
    return large_trace(num_layers=2, num_steps=4)


# --- loading and looking


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
    assert page.evaluate("document.querySelector('#inspector .code').scrollTop") > 0
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


def test_a_product_is_told_in_row_major_words(open_page: OpenPage, toy: Recording) -> None:
    page = open_page(toy)
    row = next(i for i, event in enumerate(toy.calls) if event["call"] == "cublasGemmEx" and "layer 0" in event["label"])
    event = list(toy.calls)[row]
    page.evaluate("row => cutaway.state.selectCall(row)", row)
    shown, sizes = page.inner_text("#inspector"), event["sizes"]
    assert f"out[{sizes['m']}, {sizes['n']}] = a[{sizes['m']}, {sizes['k']}]" in shown
    assert "CUBLAS_OP_T" in shown and event["args"]["lda"] in shown and "outᵀ = bᵀ · aᵀ" in shown


def test_kernels_of_a_graph_belong_to_their_layers(open_page: OpenPage, toy: Recording) -> None:
    calls = list(toy.calls)
    row = next(i for i, event in enumerate(calls) if event["call"] == "cuGraphLaunch" and event["label"] == "step 5 / decode")
    ran = calls[row]["activities"]
    place = next(i for i, activity in enumerate(ran) if activity["name"] == "decode_attention")
    page = open_page(toy)
    page.evaluate("([row, i]) => cutaway.state.selectRan(cutaway.trace.firstRan[row] + i)", [row, place])
    shown = page.inner_text("#inspector")
    assert "step 5 / decode / layer 0 / attention" in shown and "inside a graph" in shown
    assert f"cuLaunchKernel #{ran[place]['of']}" in shown, "the call that was captured"
    assert "decode_attention(" in page.inner_text("#inspector .line.here")
    page.evaluate("row => cutaway.state.selectCall(row)", row)
    assert f"Ran on the device ({len(ran)})".lower() in page.inner_text("#inspector").lower()


# --- the tree


def test_the_tree_folds_sorts_and_sums(open_page: OpenPage) -> None:
    page = open_page(small())
    page.focus("#tree .rows")
    for key in ("Home", "ArrowRight", "ArrowDown", "ArrowRight", "ArrowDown"):
        page.keyboard.press(key)
    rows = page.locator("#tree .rows .tree-row")
    texts = rows.all_inner_texts()
    assert [text.split("\n")[0] for text in texts] == ["step 0", "decode", "layers 0–1", "step 1", "step 2", "step 3"]
    assert texts[2].split("\n")[1:] == ["×2", "10", "20 µs", "10", "64 µs", "10.2 GB/s"]
    assert rows.nth(2).get_attribute("aria-level") == "3" and rows.nth(0).get_attribute("aria-expanded") == "true"
    page.uncheck("text=Fold equal layers")
    assert "layer 1" in page.inner_text("#tree .rows")
    page.click("text=Close all")
    page.check("text=Fold equal steps")
    assert page.inner_text("#tree .rows").split("\n")[:2] == ["steps 0–3", "×4"]
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


# --- pages, batches, memory


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
            """() => { const { grid } = cutaway.pages;
              return [[...grid.holders].map(([page, all]) => [page, all.map(({ request }) => request)]), [...grid.now.cached]]; }"""
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
    source, target, tokens = steps[copied]["copies"][0]
    assert f"copy-on-write: {tokens} tokens of page {source} to page {target}" in events[1]
    assert f"preempted: {steps[preempted]['preempted'][0]}" in events[2]


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
    assert page.evaluate("(() => { const m = new MemoryPanel(Dom.make('div'), cutaway.state); return m.total[m.peak]; })()") == peak
    shown = page.inner_text("#memory")
    assert "High-water mark" in shown and "KV pages" in shown and "cublas.workspace" in shown
    page.click("#memory button:has-text('kv_pages')")
    assert "kv_pages" in page.inner_text("#inspector") and "cuMemAlloc" in page.inner_text("#inspector")


# --- searching, themes, keys


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


# --- large traces


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


# --- what must stay text, and what is not there

HOSTILE = "</script><script>window.ran = 1</script><img src=x onerror='window.ran = 2'><b id=injected>"


def test_hostile_texts_stay_text(open_page: OpenPage) -> None:
    event = launch(1, 0.0, HOSTILE, f"step 1 / {HOSTILE}", 1.0, 2.0) | {"site": HOSTILE, "source": HOSTILE}
    event |= {"params": {HOSTILE: HOSTILE}, "tensors": {HOSTILE: HOSTILE}, "defines": {HOSTILE: HOSTILE}}
    event |= {"args": {HOSTILE: HOSTILE}, "result": HOSTILE}
    memory = call(2, 5.0, "cuMemAlloc", buffer=HOSTILE, nbytes=64)
    page = open_page(Recording(header(command=HOSTILE), [step_note(1, 0.0, tables={"0": [1]}), event, memory]))
    page.evaluate("cutaway.state.selectCall(0)")
    assert page.inner_text("#inspector h2") == HOSTILE and HOSTILE in page.inner_text("#bar")
    for kind in ("call", "ran"):
        page.mouse.move(*place_of(page, kind, 0))
        assert HOSTILE in page.inner_text("#tooltip")
    for tab in ("tree", "pages", "batch", "memory"):
        page.click(f"#tab-{tab}")
    page.fill("#search", HOSTILE)
    assert page.evaluate("window.ran") is None and page.locator("#injected").count() == 0


def test_a_script_that_got_in_all_the_same_does_not_run(open_page: OpenPage, said: list[str]) -> None:
    page = open_page(small())
    page.evaluate(
        """() => { const script = document.createElement("script"); script.textContent = "window.ran = 1";
          document.body.append(script);
          document.body.insertAdjacentHTML("beforeend", "<img src='data:,' onerror='window.ran = 2'>"); }"""
    )
    until(page, "document.images[0].complete")
    assert page.evaluate("window.ran") is None
    assert said and all("Content Security Policy" in line for line in said)
    said.clear()


def test_no_device_times(open_page: OpenPage) -> None:
    records = [{name: value for name, value in record.items() if name != "activities"} for record in small().records]
    page = open_page(Recording(header(clock="none"), records))
    assert "Device times were off" in page.inner_text("#notices")
    page.evaluate("cutaway.state.selectCall(0)")
    assert "not measured" in page.inner_text("#inspector") and "no place on the roofline" in page.inner_text("#inspector")


def test_a_trace_without_steps(open_page: OpenPage) -> None:
    page = open_page(Recording(header(), [launch(1, 0.0, "rmsnorm", "", 1.0, 2.0)]))
    for tab, text in (("pages", "has no steps"), ("batch", "has no steps"), ("memory", "holds no allocation")):
        page.click(f"#tab-{tab}")
        assert text in page.inner_text(f"#{tab}")
    assert page.locator("#zoom-steps").is_hidden()
    page.click("#tab-tree")
    assert "outside of steps" in page.inner_text("#tree")
    page.mouse.click(*place_of(page, "call", 0))
    assert "cuLaunchKernel #1" in page.inner_text("#inspector")


def test_an_empty_trace_says_so(open_page: OpenPage) -> None:
    page = open_page(Recording(header(device=None, clock="none"), []))
    assert "holds no call" in page.inner_text("#notices")


def test_a_call_that_did_not_return_and_one_that_failed(open_page: OpenPage) -> None:
    never = {k: v for k, v in call(2, 5.0, "cuCtxSynchronize").items() if k not in ("host_us", "result")}
    failed = call(1, 0.0, "cuMemAlloc") | {"result": "CUDA_ERROR_OUT_OF_MEMORY"}
    page = open_page(Recording(header(), [failed, never]))
    page.evaluate("cutaway.state.selectCall(0)")
    assert "CUDA_ERROR_OUT_OF_MEMORY" in page.inner_text("#inspector")
    page.evaluate("cutaway.state.selectCall(1)")
    assert "did not return" in page.inner_text("#inspector")


def test_a_replay_says_that_it_is_one(open_page: OpenPage) -> None:
    captured = {k: v for k, v in launch(1, 0.0, "rmsnorm", "step 1 / decode / layer 0", 0, 0).items() if k != "activities"}
    ran = {"what": "kernel", "name": "rmsnorm", "start_us": 20.0, "end_us": 23.0, "stream": "stream 1", "of": 1, "replayed": True}
    graph = call(2, 10.0, "cuGraphLaunch", "step 2 / decode", graph=1, activities=[ran])
    page = open_page(Recording(header(clock="event pairs"), [captured | {"captured": 1}, graph]))
    assert "eager replay" in page.inner_text("#notices")
    page.mouse.click(*place_of(page, "ran", 0))
    shown = page.inner_text("#inspector")
    assert "replayed one by one" in shown and "step 2 / decode / layer 0" in shown
    page.evaluate("cutaway.state.selectCall(0)")
    assert "captured: recorded, did not run" in page.inner_text("#inspector") and "1 run below" in page.inner_text("#inspector")
