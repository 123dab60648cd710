"""tools/trace/summary.py and memory.py: every figure, on a trace whose figures are known."""

from __future__ import annotations

import io
import json
import pickle
from random import Random
from typing import Any

import pytest

from tests.trace_events import HEADER, Maker, feed
from tools.trace import busy, summary_text
from tools.trace.events import busy_us
from tools.trace.memory import owner
from tools.trace.summary import Summary
from tools.trace.terminal import Screen


def summed(maker: Maker, **header: Any) -> Summary:
    return feed(Summary(), maker.events, {**HEADER, **header})


def named(rows: list[dict[str, Any]], name: str, key: str = "name") -> dict[str, Any]:
    return next(row for row in rows if row[key] == name)


def text_of(summary: Summary, **options: bool) -> str:
    stream = io.StringIO()
    summary_text.show(summary, Screen(stream, "never"), **options)
    return stream.getvalue()


def test_calls_are_counted_by_api() -> None:
    maker = Maker()
    maker.step(1, "prefill", layers=3)
    rows = summed(maker).as_json()["calls"]
    launches = named(rows, "cuLaunchKernel", "call")
    assert (launches["calls"], launches["total_us"], launches["mean_us"]) == (4, 40, 10)
    assert sum(row["share"] for row in rows) == pytest.approx(1)
    assert named(rows, "cuMemcpyHtoDAsync", "call")["bytes"] == 1024


def test_kernels_are_held_against_the_limits() -> None:
    maker = Maker()
    maker.step(1, "prefill", layers=4, us=20.0)
    rows = summed(maker).as_json()["kernels"]
    norm = named(rows, "rmsnorm")
    assert (norm["runs"], norm["total_us"], norm["mean_us"], norm["bytes"]) == (4, 80, 20, 8_000_000)
    assert norm["bytes_per_s"] == pytest.approx(1e11) and norm["fraction_of_limit"] == pytest.approx(0.1)
    product = named(rows, "gemm layers.*.attention.qkv")
    floor_us = 4 * 2 * (5 * 960 + 5 * 576 + 960 * 576) / 1e12 * 1e6  # each reads and writes its bytes once
    assert product["fraction_of_limit"] == pytest.approx(floor_us / product["total_us"])
    assert sum(row["share"] for row in rows) == pytest.approx(1)
    assert rows == sorted(rows, key=lambda row: -row["total_us"])


def test_without_limits_there_is_no_fraction() -> None:
    maker = Maker()
    maker.launch("rmsnorm")
    (row,) = summed(maker, rates=None).as_json()["kernels"]
    assert row["fraction_of_limit"] is None and row["bytes_per_s"] == pytest.approx(1e11)


def test_a_fraction_may_mix_bounds() -> None:
    """Of one kernel bound now by bytes, now by arithmetic, the floors add up."""
    maker = Maker()
    maker.launch("big", us=4.0)  # floor: 2 us by its bytes
    maker.launch("big", us=16.0, flops=10**9)  # floor: 10 us by its arithmetic
    (row,) = summed(maker).as_json()["kernels"]
    assert row["fraction_of_limit"] == pytest.approx(12 / 20)


def test_kernels_in_a_graph_are_counted_by_what_they_are() -> None:
    maker = Maker()
    maker.captured_step(1, layers=4)
    for number in (2, 3):
        maker.graph_launch(number)
    found = summed(maker)
    rows = found.as_json()["kernels"]
    assert named(rows, "rmsnorm")["runs"] == 12 and named(rows, "rmsnorm")["total_us"] == 12 * 20
    assert named(rows, "gemm layers.*.attention.qkv")["total_us"] == 12 * 40  # two kernels each
    assert named(found.as_json()["calls"], "cuLaunchKernel", "call")["calls"] == 4  # captured, and never again
    (decode,) = found.as_json()["steps"]
    assert decode["kind"] == "decode" and decode["steps"] == 3
    assert decode["kernels_per_step"] == {"least": 12, "most": 12}  # four norms, and four products of two kernels
    assert decode["device_us_per_step"] == pytest.approx(12 * 20)
    assert named(decode["kernels"], "rmsnorm") == {"name": "rmsnorm", "runs_per_step": 4, "us_per_step": 80}
    assert decode["kernels"][0]["name"] == "gemm layers.*.attention.qkv"  # what takes longest comes first


def test_kernels_are_counted_where_nobody_timed_them() -> None:
    maker = Maker()
    maker.step(1, "decode", layers=2, us=None)
    maker.captured_step(2, layers=2)
    maker.events.pop()
    maker.graph_launch(2, us=None)
    found = summed(maker, clock="none").as_json()
    (decode,) = found["steps"]
    assert decode["kernels_per_step"] == {"least": 4, "most": 5} and named(found["kernels"], "rmsnorm")["runs"] == 4
    assert named(found["kernels"], "rmsnorm")["mean_us"] is None


def test_steps_are_told_by_kind() -> None:
    maker = Maker()
    maker.step(1, "prefill", layers=4)
    maker.step(2, "decode", layers=2)
    maker.step(3, "decode", layers=3)
    kinds = {row["kind"]: row for row in summed(maker).as_json()["steps"]}
    assert kinds["prefill"]["steps"] == 1 and kinds["prefill"]["kernels_per_step"] == {"least": 9, "most": 9}
    assert kinds["decode"]["steps"] == 2 and kinds["decode"]["kernels_per_step"] == {"least": 5, "most": 7}
    assert kinds["decode"]["host_us_per_step"] == 10 * (6 + 8) / 2


def test_steps_of_another_engine_are_steps_of_their_own() -> None:
    maker = Maker()
    for _ in range(2):
        maker.step(1, "prefill")
        maker.step(2, "decode")
    kinds = {row["kind"]: row["steps"] for row in summed(maker).as_json()["steps"]}
    assert kinds == {"prefill": 2, "decode": 2}


def test_the_device_waited_for_what_is_not_busy() -> None:
    maker = Maker()
    maker.launch("a", "step 1 / decode", us=20.0)  # runs from 5 to 25
    maker.now_us = 100.0
    maker.launch("a", "step 2 / decode", us=20.0)  # from 105 to 125
    assert summed(maker).idle() == {"span_us": 120.0, "busy_us": 40.0, "waited_us": 80.0}
    for event in maker.events:
        event["replayed"] = True  # launched one by one only to be timed: the gaps are the trace's own
    assert summed(maker).idle() is None


def test_what_is_kept_does_not_grow_with_the_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(busy, "KEPT", 32)

    def size(steps: int) -> int:
        maker = Maker()
        maker.captured_step(1)
        for number in range(2, steps):
            maker.graph_launch(number)
        summary = summed(maker)
        assert summary.as_json()["steps"][0]["steps"] == steps - 1
        return len(pickle.dumps(summary))

    assert size(400) < size(40) + 200


def test_the_busy_time_of_many_spans_is_that_of_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(busy, "KEPT", 64)
    random = Random(5)
    work = [(start, start + random.uniform(0, 20)) for start in (10 * i + random.uniform(0, 80) for i in range(1000))]
    found = busy.Busy()
    for start in range(0, len(work), 7):
        found.add(work[start : start + 7])
    assert found.us == pytest.approx(busy_us(work))
    assert (found.first_us, found.last_us) == (min(work)[0], max(end for _, end in work))


@pytest.mark.parametrize(
    ("buffer", "whose"),
    [
        ("kv_pages", "KV pages"), ("activations.qkv", "activations"), ("rope.cos_sin", "activations"),
        ("single_queries", "activations"), ("cublas.workspace", "workspace"), ("step", "step buffers"),
        ("sampler.masks", "step buffers"), ("embed", "weights"), ("layers.3.mlp.down", "weights"),
        ("norm.weight", "weights"), ("lm_head", "weights"), ("bench.source", "other"),
    ],
)  # fmt: skip
def test_each_buffer_has_an_owner(buffer: str, whose: str) -> None:
    assert owner(buffer) == whose


def test_memory_is_told_now_and_at_its_fullest() -> None:
    maker = Maker()
    maker.alloc("embed", 100)
    maker.alloc("weights.staging.0", 1000, host=True)
    maker.alloc("bench.scratch", 50)
    maker.alloc("bench.scratch", 50, free=True)
    maker.alloc("kv_pages", 30)
    maker.alloc("kv_pages", 30, free=True)
    maker.call("cuMemAlloc", buffer="kv_pages", nbytes=10**9, result="CUDA_ERROR_OUT_OF_MEMORY")
    memory = summed(maker).as_json()["memory"]
    assert memory["high_water_bytes"] == 150
    assert memory["high_water"] == {"weights": 100, "pinned host memory": 1000, "other": 50}
    assert {name: n for name, n in memory["now"].items() if n} == {"weights": 100, "pinned host memory": 1000}


def test_failures_are_listed_by_call_and_error() -> None:
    maker = Maker()
    maker.call("cuMemAlloc", result="CUDA_ERROR_OUT_OF_MEMORY")
    maker.call("cuFuncGetParamInfo", result="CUDA_ERROR_INVALID_VALUE")
    found = summed(maker)
    assert found.as_json()["failed"][0] == {"call": "cuMemAlloc", "error": "CUDA_ERROR_OUT_OF_MEMORY", "calls": 1}
    text = text_of(found)
    assert "failed: cuMemAlloc, CUDA_ERROR_OUT_OF_MEMORY, 1 time" in text
    assert "cuFuncGetParamInfo answered CUDA_ERROR_INVALID_VALUE 1 time, which says that there is no more" in text


def test_the_text_says_what_the_figures_say() -> None:
    maker = Maker()
    maker.alloc("embed", 56_600_000)
    maker.step(1, "prefill", layers=4)
    maker.captured_step(2, layers=4)
    maker.graph_launch(3)
    text = text_of(summed(maker), filtered=True)
    assert "Summary of everything, whatever the filters chose to list" in text
    assert "2 decode steps: 12 kernels each; device 240 us" in text
    assert "1 prefill step: 9 kernels; device" in text
    assert [line.split() for line in text.splitlines() if line.startswith("  weights")] == [
        ["weights", "56.6", "MB", "56.6", "MB"]
    ]
    assert "it waited for the host for" in text and "a host that tracing slows down" in text


def test_columns_that_nobody_can_fill_are_left_out() -> None:
    maker = Maker()
    maker.launch("rmsnorm")
    with_limits, without = text_of(summed(maker)), text_of(summed(maker, rates=None))
    assert " limit " in with_limits and " limit " not in without and " rate " in without
    maker.launch("rmsnorm", us=None)
    assert " rate " not in text_of(summed(maker, clock="none"))


def test_long_tables_are_cut_and_say_so() -> None:
    maker = Maker()
    for number in range(30):
        maker.launch(f"kernel_{number}", us=30.0 - number)
    assert "... and 14 more that took less: --json has all" in text_of(summed(maker))
    whole = text_of(summed(maker), whole=True)
    assert "kernel_29" in whole and "more that took less" not in whole


def test_nothing_at_all_is_a_summary_too() -> None:
    empty = feed(Summary(), [], {**HEADER, "device": None, "rates": None, "clock": "none"})
    assert json.loads(json.dumps(empty.as_json()))["wall_us"] == 0
    assert "host: 0 us in calls" in text_of(empty)
