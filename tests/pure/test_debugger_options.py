"""The debugger's options: what is refused before anything runs, and how a script comes together."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools import trace
from tools.cli import UsageError
from tools.trace.debugger.options import script_lines, times


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--break", "layer 3"], "--break is for --pause, which is missing"),
        (["-x", "next"], "-x is for --pause, which is missing"),
        (["--commands", "script"], "--commands is for --pause, which is missing"),
        (["--graphs"], "--graphs is for --pause, which is missing"),
        (["--pause", "--break", "layr 3"], "--break: cannot break at 'layr 3'; a place is: call NAME"),
        (["--pause", "--break", "op gemm if m = 1"], "--break: cannot read the condition 'm = 1'"),
        (["--pause", "--commands", "/no/such/file"], "--commands /no/such/file: No such file or directory"),
        (["--pause", "--graphs", "--gpu-times", "events"], "--gpu-times events times kernels one by one"),
        (["--pause", "--json"], "--pause and --json both say what to show"),
        (["--pause", "--summary-only"], "--pause and --summary-only both say what to show"),
        (["--pause", "--pages"], "--pause and --pages both say what to show"),
        (["--pause", "--layer", "3"], "--layer is for the table, but calls are shown one by one"),
    ],
)
def test_options_that_mean_nothing_are_refused(
    options: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert trace.main([*options, "generate", "Hello"]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith(f"cutaway trace: error: {complaint}") and said.err.count("\n") == 1


def test_a_recording_cannot_be_stopped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "calls.jsonl").write_text("")
    assert trace.main(["--open", str(tmp_path / "calls.jsonl"), "--pause"]) == 2
    assert "--pause is for a run; what --open reads has run already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "clock"), [([], "auto"), (["--graphs"], "off"), (["--gpu-times", "cupti"], "cupti")]
)
def test_graphs_that_are_kept_are_not_taken_apart_by_a_clock(options: list[str], clock: str) -> None:
    assert times(trace.make_parser().parse_args(["--pause", *options, "generate"])) == clock


def test_a_script_is_what_the_options_say_in_their_order(tmp_path: Path) -> None:
    file = tmp_path / "script"
    file.write_text("# a remark\nargs\n")
    assert script_lines(["n 3; out", "q"], file) == ["n 3; out", "q", "# a remark", "args"]
    file.write_bytes(b"\xff")
    with pytest.raises(UsageError, match="it is not UTF-8 text"):
        script_lines([], file)
