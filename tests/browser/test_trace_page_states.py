"""The page of a trace in a browser: hostile texts stay text, and what is not there is said."""

from __future__ import annotations

import pytest

from tests.browser.conftest import OpenPage
from tests.browser.page_driver import place_of, small, until
from tests.large_trace import call, header, launch, step_note
from tools.trace.recording import Recording

pytestmark = pytest.mark.needs_chromium

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
    assert "not measured" in page.inner_text("#inspector") and "no place on the roofline" in page.inner_text(
        "#inspector"
    )


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
    captured = {
        k: v for k, v in launch(1, 0.0, "rmsnorm", "step 1 / decode / layer 0", 0, 0).items() if k != "activities"
    }
    ran = {
        "what": "kernel",
        "name": "rmsnorm",
        "start_us": 20.0,
        "end_us": 23.0,
        "stream": "stream 1",
        "of": 1,
        "replayed": True,
    }
    graph = call(2, 10.0, "cuGraphLaunch", "step 2 / decode", graph=1, activities=[ran])
    page = open_page(Recording(header(clock="event pairs"), [captured | {"captured": 1}, graph]))
    assert "eager replay" in page.inner_text("#notices")
    page.mouse.click(*place_of(page, "ran", 0))
    shown = page.inner_text("#inspector")
    assert "replayed one by one" in shown and "step 2 / decode / layer 0" in shown
    page.evaluate("cutaway.state.selectCall(0)")
    assert "captured: recorded, did not run" in page.inner_text("#inspector") and "1 run below" in page.inner_text(
        "#inspector"
    )
