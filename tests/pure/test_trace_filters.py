"""tools/trace/filters.py: what --calls, --layer, --step and --kernel choose, refuse and complain of."""

from __future__ import annotations

import pytest

from tests.trace_events import Maker
from tools.cli import UsageError
from tools.trace.filters import Filter, ranges
from tools.trace.unrolled import Unroller


def chosen(maker: Maker, **options: str) -> list[int]:
    """The numbers of the calls that fit."""
    wanted = Filter(**options)
    return [event["n"] for event in maker.events if wanted.matches(event)]


def two_steps() -> Maker:
    maker = Maker()
    maker.step(1, "prefill", layers=3)
    maker.step(2, "decode", layers=3)
    return maker


def test_each_filter_alone_and_all_together() -> None:
    maker = two_steps()
    by_number = {event["n"]: event for event in maker.events}
    assert {by_number[n]["call"] for n in chosen(maker, calls="cublasGemmEx,cuMem*")} == {
        "cublasGemmEx",
        "cuMemcpyHtoDAsync",
    }
    assert {by_number[n]["kernel"] for n in chosen(maker, kernel="arg*")} == {"argmax"}
    assert {by_number[n]["op"] for n in chosen(maker, kernel="gemm")} == {"gemm"}
    assert (
        len(chosen(maker, layer="0")) == 4
        and len(chosen(maker, layer="0-1")) == 8
        and len(chosen(maker, layer="0,2")) == 8
    )
    assert len(chosen(maker, step="2")) == len(maker.events) / 2 - 1  # the wait behind a step has no label
    assert len(chosen(maker, calls="cublasGemmEx", layer="1", step="2")) == 1


def test_kernels_of_a_graph_fit_by_layer_and_kernel_but_are_calls_of_the_launch() -> None:
    maker, unroller = Maker(), Unroller()
    maker.captured_step(1, layers=2)
    for event in maker.events:
        unroller.see(event)
    work = list(unroller.work_of(maker.events[-1]))
    assert sum(Filter(kernel="rmsnorm", layer="1").matches(one) for one in work) == 1
    assert all(Filter(calls="cuGraphLaunch").matches(one) for one in work)
    assert not any(Filter(calls="cuLaunchKernel").matches(one) for one in work)


@pytest.mark.parametrize("text", ["", "x", "3-1", "-1", "1-", "1,,2", "1.5", "0x3"])
def test_what_is_no_range_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--layer"):
        ranges(text, "--layer")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"calls": "cublasGemEx"}, "did you mean cublasGemmEx"),
        ({"calls": "rmsnorm"}, "no call of this engine is named 'rmsnorm'"),
        ({"calls": "cuda*"}, "no call of this engine is named"),
        ({"calls": ""}, "is no name"),
        ({"kernel": "a b"}, "is no name"),
        ({"kernel": "rmsnorm,"}, "is no name"),
    ],
)
def test_names_that_can_not_be_are_refused(options: dict[str, str], words: str) -> None:
    with pytest.raises(UsageError, match=words.replace("*", r"\*")):
        Filter(**options)


def complaint(maker: Maker, **options: str) -> list[str]:
    wanted = Filter(**options)
    for event in maker.events:
        wanted.matches(event)
    return wanted.complaint()


def test_a_filter_that_matched_nothing_says_what_there_was() -> None:
    maker = two_steps()
    assert complaint(maker, layer="30") == ["--layer 30 matched nothing; there were: 0 to 2"]
    assert complaint(maker, step="5-9") == ["--step 5-9 matched nothing; there were: 1 to 2"]
    assert complaint(maker, kernel="rmsnrom") == ["--kernel rmsnrom matched nothing; there were: rmsnorm, gemm, argmax"]
    assert complaint(maker, calls="cuGraphLaunch")[0].startswith(
        "--calls cuGraphLaunch matched nothing; there were: cuMem"
    )
    assert complaint(maker, kernel="argmax", layer="0") == ["no call fits --layer 0 and --kernel argmax at once"]
    assert complaint(maker, kernel="argmax") == [] == complaint(maker)
    assert complaint(Maker(), layer="0") == ["--layer 0 matched nothing; there were: none"]
