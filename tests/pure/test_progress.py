"""Progress: lines where stderr is a file, a bar that goes away where it is a terminal, nothing when quiet."""

from __future__ import annotations

import io

import pytest

from tools.progress import Progress, amount


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def run_two_stages(progress: Progress) -> None:
    with progress:
        for done in (0, 50, 100):
            progress("fetching model", done, 100, "bytes")
        for done in (0, 1, 2, 3):
            progress("compiling", done, 3, "kernels")


def test_one_line_a_stage_in_a_file() -> None:
    stream = io.StringIO()
    run_two_stages(Progress(stream=stream))
    assert stream.getvalue() == "fetching model (0.0 MB)\ncompiling (3 kernels)\n"


def test_stage_that_comes_again_is_shown_again() -> None:
    stream = io.StringIO()
    with Progress(stream=stream) as progress:
        progress("compiling", 1, 1, "kernels")
        progress("loading", 1, 1, "tensors")
        progress("compiling", 2, 2, "kernels")
    assert stream.getvalue().splitlines() == [
        "compiling (1 kernel)",
        "loading (1 tensor)",
        "compiling (2 kernels)",
    ]


def test_stage_that_stays_at_its_end_is_told_once() -> None:
    stream = io.StringIO()
    with Progress(stream=stream) as progress:
        for done in (0, 7, 7, 7):
            progress("fetching", done, 7, "tensors")
        progress("fetching", 0, 9, "tensors")
    assert stream.getvalue().splitlines() == ["fetching (7 tensors)", "fetching (9 tensors)"]


def test_bar_on_a_terminal_is_cleared_at_the_end() -> None:
    stream = Terminal()
    run_two_stages(Progress(stream=stream))
    shown = stream.getvalue()
    assert "fetching model" in shown and "compiling" in shown
    assert shown.split("\r")[-1] == "" and shown.split("\r")[-2].strip() == ""


def test_bar_is_cleared_when_the_stage_fails() -> None:
    stream = Terminal()
    with pytest.raises(KeyError), Progress(stream=stream) as progress:
        progress("loading", 1, 3, "tensors")
        raise KeyError("tensor")
    assert stream.getvalue().split("\r")[-2].strip() == ""


def test_quiet_shows_nothing() -> None:
    for stream in (io.StringIO(), Terminal()):
        run_two_stages(Progress(quiet=True, stream=stream))
        assert stream.getvalue() == ""


@pytest.mark.parametrize(
    ("total", "unit", "text"),
    [
        (105_454_432, "bytes", "105.5 MB"),
        (2_471_600_000, "bytes", "2.47 GB"),
        (272, "tensors", "272 tensors"),
    ],
)
def test_amount(total: int, unit: str, text: str) -> None:
    assert amount(total, unit) == text
