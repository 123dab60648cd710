"""tools/trace: the lines of the table, and the columns, words and units that they are made of."""

from __future__ import annotations

import io
import re
from typing import Any

import pytest

from tests.trace_events import HEADER, Maker, feed
from tools.trace import units
from tools.trace.events import Limits, busy_us, place, speed_of, work_name
from tools.trace.spelling import arguments, title
from tools.trace.table import Table
from tools.trace.terminal import Screen, Watched, columns, wrapped


class Terminal(io.StringIO):
    """A stream that says that it is a terminal."""

    def isatty(self) -> bool:
        return True


def table(
    maker: Maker, monkeypatch: pytest.MonkeyPatch, width: int | None, colour: str = "never", **options: Any
) -> str:
    """What the table prints of a trace, on a terminal that is `width` wide or into a pipe."""
    stream = io.StringIO() if width is None else Terminal()
    if width is None:
        monkeypatch.delenv("COLUMNS", raising=False)
    else:
        monkeypatch.setenv("COLUMNS", str(width))
    feed(Table(Screen(stream, colour), **options), maker.events)
    return stream.getvalue()


def a_run() -> Maker:
    maker = Maker()
    maker.alloc("embed", 56_623_104)
    maker.copy(33_554_432)
    maker.step(1, "prefill")
    maker.captured_step(2)
    maker.call("cuMemAlloc", buffer="kv_pages", nbytes=1, result="CUDA_ERROR_OUT_OF_MEMORY")
    return maker


@pytest.mark.parametrize(
    ("us", "told"),
    [(0, "0 us"), (0.5, "500 ns"), (4.127, "4.13 us"), (99.96, "100 us"), (999.6, "1.00 ms"), (2_400_000, "2.40 s")],
)
def test_durations_have_three_digits(us: float, told: str) -> None:
    assert units.duration(us) == told


def test_amounts_rates_and_fractions_have_units() -> None:
    assert [units.amount(n) for n in (0, 999, 26_688, 33_554_432)] == ["0 B", "999 B", "26.7 kB", "33.6 MB"]
    assert units.rate(3.09e12, "B") == "3.09 TB/s" and units.rate(790e12, "FLOP") == "790 TFLOP/s"
    assert [units.percent(f) for f in (0.0042, 0.0994, 0.0995, 0.81, 1.2)] == [
        "0.4 %",
        "9.9 %",
        "10 %",
        "81 %",
        "120 %",
    ]


def test_label_says_step_kind_and_layer() -> None:
    assert place("step 12 / decode + prefill / layer 3 / attention") == (12, "decode + prefill", 3)
    assert place("step 1") == (1, "", None) and place("") == (None, "", None) and place("lm head") == (None, "", None)


def test_overlapping_activities_count_once() -> None:
    assert busy_us([(6, 7), (0, 10), (20, 21), (5, 12)]) == 13


def test_speed_is_told_in_the_terms_that_limit_it() -> None:
    maker = Maker()
    bytes_bound = maker.launch("rmsnorm", us=4.0)  # 2 MB at 1 TB/s take 2 us; 1 MFLOP takes 0.01
    flops_bound = maker.launch("big", us=40.0, flops=10**9)  # 10 us at 100 TFLOP/s
    limits = Limits.of(HEADER)
    assert speed_of(bytes_bound, limits) == (pytest.approx(0.5e12), "B", pytest.approx(0.5))
    assert speed_of(flops_bound, limits) == (pytest.approx(25e12), "FLOP", pytest.approx(0.25))
    assert speed_of(bytes_bound, None) == (pytest.approx(0.5e12), "B", None)  # nobody measured the limits
    assert speed_of(maker.launch("untimed", us=None), limits) is None


def test_a_launch_is_told_with_tensors_scalars_and_geometry() -> None:
    event = Maker().launch("rmsnorm", grid=[9, 3, 1], smem=36_864)
    assert title(event) == ("cuLaunchKernel", "rmsnorm")
    assert arguments(event) == [
        "out=activations.normed:bf16[5, 64]", "x=layers.0.weight:bf16[5, 64]", "eps=1e-05", "grid 9x3,", "block 96,",
        "36.9 kB shared,", "stream 1",
    ]  # fmt: skip


def test_a_product_is_told_row_major_and_as_cublas_was_asked() -> None:
    event = Maker().product("layers.3.attention.qkv")
    assert title(event) == ("cublasGemmEx", "qkv") and work_name(event) == "gemm layers.*.attention.qkv"
    assert " ".join(arguments(event, whole=False)) == (
        "activations.qkv:bf16[5, 960] = activations.normed:bf16[5, 576] @ layers.3.attention.qkv:bf16[960, 576]^T;"
        " asked: transa=CUBLAS_OP_T transb=CUBLAS_OP_N m=960 n=5 k=576 A=layers.3.attention.qkv lda=576"
        " B=activations.normed ldb=576 C=activations.qkv ldc=960"
    )
    assert {"alpha=1.0", "Atype=CUDA_R_16BF"} <= set(arguments(event))
    assert "^T" not in " ".join(arguments(Maker().product("w", transpose_b=False)))


def test_copies_and_allocations_have_names_and_sizes() -> None:
    maker = Maker()
    assert " ".join(arguments(maker.copy(26_688))) == "step <- step.host.0, 26.7 kB, stream 1"
    assert " ".join(arguments(maker.alloc("embed", 56_623_104))) == "embed, 56.6 MB"
    unsaid = maker.call("cuMemcpyDtoDAsync", args={"dstDevice": "b", "srcDevice": "a", "ByteCount": "4000"})
    assert " ".join(arguments(unsaid)) == "b <- a, 4.00 kB,"
    fill = maker.call("cuMemsetD8Async", args={"dstDevice": "x", "uc": "0"}, bytes=64, stream="stream 1")
    assert " ".join(arguments(fill)) == "x: 64 B of 0, stream 1" and work_name(fill) == "fill"
    assert arguments(maker.call("cuInit", args={"Flags": "0"})) == ["Flags=0"]


@pytest.mark.parametrize("width", [80, 100, 160])
def test_no_line_is_wider_than_the_terminal(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    text = table(a_run(), monkeypatch, width)
    longest = max(text.splitlines(), key=len)
    assert len(longest) <= width, longest
    assert "\x1b" not in text


def test_colours_change_no_letter(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, coloured = (table(a_run(), monkeypatch, 80, colour) for colour in ("never", "always"))
    assert "\x1b[" in coloured and re.sub(r"\x1b\[[0-9;]*m", "", coloured) == plain


def test_no_color_is_honoured_and_a_pipe_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert "\x1b" in table(a_run(), monkeypatch, 80, "auto") and "\x1b" not in table(a_run(), monkeypatch, None, "auto")
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in table(a_run(), monkeypatch, 80, "auto")


def test_in_a_pipe_each_call_is_one_line_with_its_label(monkeypatch: pytest.MonkeyPatch) -> None:
    maker = a_run()
    lines = table(maker, monkeypatch, None, fold=False).splitlines()
    calls = [line for line in lines if re.match(r" +\d+ +\d", line)]
    assert len(calls) == len(maker.events)
    product = next(line for line in calls if "layer 2 / attention" in line and "cublasGemmEx" in line)
    for word in (
        "step 1 / prefill / layer 2 / attention",
        "20.0 us" if "rmsnorm" in product else "40.0 us",
        "beta=0.0",
    ):
        assert word in product


def test_a_pipe_may_say_how_wide_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "90")
    assert Screen(io.StringIO()).width == 90 and Screen(io.StringIO(), wide=True).width is None
    monkeypatch.setenv("COLUMNS", "")
    assert Screen(io.StringIO()).width is None


def test_a_terminal_obeys_nothing_of_a_trace_that_somebody_else_wrote(monkeypatch: pytest.MonkeyPatch) -> None:
    maker = Maker()
    maker.launch("rms\x1b]0;owned\x07norm", "step 1 / de\x1b[2Jcode\r\x9b2J")
    for width in (80, None):
        shown = table(maker, monkeypatch, width, "always")
        assert "rms?]0;owned?norm" in shown and "de?[2Jcode" in shown and "\x1b[36m" in shown
        assert not re.search(r"\x1b(?!\[[0-9;]*m)|[\r\x07\x9b]", shown)


def test_a_window_that_is_made_wider_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    screen = Screen(io.StringIO())
    monkeypatch.setenv("COLUMNS", "140")
    assert screen.width == 140


def test_narrow_terminals_have_headings_in_place_of_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = table(a_run(), monkeypatch, 80).splitlines()
    assert "step 1 / prefill / layer 0 / attention  (at 0.000030 s)" in lines
    assert "outside of steps: engine/weights.py  (at 0.000000 s)" in lines
    assert "step 2 / decode / layer 0 / attention, recorded into graph 1  (at 0.000140 s)" in lines


def test_kernels_of_a_graph_stand_behind_its_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    maker = Maker()
    maker.captured_step(1, layers=2)
    maker.graph_launch(2)
    text = table(maker, monkeypatch, 160, fold=False)
    assert text.count("in graph 1 rmsnorm") == text.count("in graph 1 qkv") == 4
    launches = [line for line in text.splitlines() if "cuGraphLaunch" in line]
    assert len(launches) == 2 and all("graph 1 = 6 kernels" in line for line in launches)  # a product takes two here
    assert "step 2 / decode / layer 1 / attention" in text  # the captured label, in the step of the launch


def test_an_untimed_graph_lists_its_kernels_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    maker = Maker()
    maker.captured_step(1, layers=2)
    maker.events[-1].pop("activities")
    assert table(maker, monkeypatch, 160, fold=False).count("in graph 1 rmsnorm") == 2


def test_errors_are_red_and_answers_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    maker = Maker()
    maker.call("cuMemAlloc", result="CUDA_ERROR_OUT_OF_MEMORY")
    maker.call("cuFuncGetParamInfo", result="CUDA_ERROR_INVALID_VALUE")
    text = table(maker, monkeypatch, 80, "always")
    assert "\x1b[1;31mfailed: CUDA_ERROR_OUT_OF_MEMORY" in text
    assert "\x1b[2manswers CUDA_ERROR_INVALID_VALUE: no more" in text


def test_explanations_stand_under_the_first_of_a_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    text = table(a_run(), monkeypatch, 80, explain=lambda event: [f"about {event['call']}"] if event["n"] == 1 else [])
    assert text.count("about cuMemAlloc") == 1


def test_lines_are_cut_between_pieces() -> None:
    assert wrapped(["aa", "bbb", "c"], first=6, width=8, indent=2) == ["aa bbb", "c"]
    assert wrapped(["aaaa"], first=2, width=8, indent=2) == ["", "aaaa"]
    assert wrapped(["\x1b[1maa\x1b[0m", "bb"], first=5, width=8, indent=0) == ["\x1b[1maa\x1b[0m bb"]
    assert columns("\x1b[1;38;5;33maa\x1b[0m") == 2


def test_the_table_never_writes_into_a_line_of_the_program(capsys: pytest.CaptureFixture[str]) -> None:
    stream = io.StringIO()
    stdout = Watched(stream)
    print(" Paris", end="", file=stdout)
    screen = Screen(stdout, "never")
    screen.line("a call")
    screen.line("another")
    assert stream.getvalue() == " Paris\na call\nanother\n"
