"""tools/trace: its command line, and that every view gets the whole of what a watched tool does."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from bindings.trace import recorder
from tests.trace_events import HEADER, Maker, note
from tools import trace
from tools.trace.recording import Recording


@pytest.fixture(autouse=True)
def no_width(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is printed into these tests is as wide as it likes."""
    monkeypatch.delenv("COLUMNS", raising=False)


@pytest.fixture(autouse=True)
def known_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The device of these tests does not exist, and nobody need measure it."""
    monkeypatch.setattr(trace, "limits_of", lambda device: HEADER["rates"])


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    """A trace of two steps, a graph and a shared page, as --jsonl writes it."""
    maker = Maker()
    maker.alloc("embed", 1000)
    maker.events.append(note(1, prefills=[[0, 0, 26]], tables={"0": [0, 1]}, free=38, running=1))
    maker.step(1, "prefill")
    maker.captured_step(2)
    path = tmp_path / "calls.jsonl"
    Recording(HEADER, maker.events).write(path)
    return path


def run(capsys: pytest.CaptureFixture[str], *argv: str | Path) -> tuple[int, str, str]:
    """Exit code, stdout, stderr."""
    code = trace.main([str(word) for word in argv])
    return code, *capsys.readouterr()


def test_a_recording_is_shown_like_a_run(recorded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "--open", recorded)
    assert (code, err) == (0, "")
    assert (
        "layers 1 to 3: the same 2 calls each" in out
        and "in graph 1 rmsnorm" in out
        and "Summary of everything\n" in out
    )
    whole = run(capsys, "--open", recorded, "--no-fold")[1]
    assert "layers 1 to 3" not in whole and len(whole.splitlines()) > len(out.splitlines())


@pytest.mark.parametrize("option", ["--summary-only", "--html=t.html", "-x", "--gpu-times"])
def test_an_option_behind_the_tool_is_told_where_it_belongs(capsys: pytest.CaptureFixture[str], option: str) -> None:
    code, _, err = run(capsys, "generate", "Hello", option, "--json")
    assert code == 2 and f"cutaway trace: {option} is for trace: options of trace stand before 'generate'" in err
    assert "is for trace" not in run(capsys, "generate", "Hello", "--nonsense", "--json")[2]


def test_filters_choose_lines_and_the_summary_stays_whole(recorded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "--open", recorded, "--kernel", "argmax", "--explain")
    table, summary = out.split("Summary of everything, whatever the filters chose to list")
    assert code == 0 and err == "" and table.count("cuLaunchKernel argmax") == 1 and "rmsnorm" not in table
    assert "argmax: greedy sampling" in table and "rmsnorm" in summary


def test_a_filter_that_matched_nothing_complains_on_stderr(recorded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "--open", recorded, "--layer", "9")
    assert (code, err) == (0, "cutaway trace: --layer 9 matched nothing; there were: 0 to 3\n")


def test_sums_and_pages_in_place_of_the_table(recorded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, sums, _ = run(capsys, "--open", recorded, "--summary-only")
    assert sums.startswith("\nSummary of everything\n") and "cuLaunchKernel rmsnorm" not in sums
    _, pages, _ = run(capsys, "--open", recorded, "--pages")
    assert "request 0 has the block table [0 1]" in pages and "Summary" not in pages
    _, figures, _ = run(capsys, "--open", recorded, "--json")
    assert json.loads(figures)["steps"][0]["kind"] == "prefill"


def test_files_come_of_a_recording_too(recorded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    perfetto, page = tmp_path / "trace.json", tmp_path / "trace.html"
    assert run(capsys, "--open", recorded, "--summary-only", "--perfetto", perfetto, "--html", page)[0] == 0
    assert json.loads(perfetto.read_text())["traceEvents"]
    assert "<html" in page.read_text() and "generate Hello" in page.read_text()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("", "nothing to watch"),
        ("generat", "there is no tool 'generat' to watch; there are generate"),
        ("--open t.jsonl generate Hello", "--open runs nothing, but 'generate' stands behind it"),
        ("--open t.jsonl --gpu-times events", "--gpu-times is for a run"),
        ("--open t.jsonl --jsonl u.jsonl", "--jsonl is for a run"),
        ("--summary-only --calls cuInit generate", "--calls is for the table"),
        ("--json --explain generate", "--explain is for the table"),
        ("--pages --kernel argmax generate", "--kernel is for the table, but pages are not calls"),
        ("--pages --json generate", "not allowed with argument"),
        ("--layer x generate", "--layer: 'x' is no number"),
        ("--pages --step x generate", "--step: 'x' is no number"),
        ("--calls cublasGemEx generate", "did you mean cublasGemmEx?"),
        ("--color purple generate", "invalid choice"),
        ("--perfetto no/folder/t.json generate", "--perfetto: there is no folder no/folder"),
        ("--jsonl . generate", "--jsonl: . is a folder"),
    ],
)
def test_what_makes_no_sense_is_refused(options: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, *options.split())
    assert (code, out) == (2, "") and err.startswith("cutaway trace: error: ") and words in err and err.count("\n") == 1


def test_pages_take_the_options_that_they_can_use(recorded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "--open", recorded, "--pages", "--step", "1", "--wide", "--no-fold")
    assert code == 0 and "step 1" in out


@pytest.mark.parametrize("text", ["", "no JSON\n", '{"kind": "call"}\n'])
def test_what_is_no_trace_is_one_line(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text(text)
    code, out, err = run(capsys, "--open", path)
    assert (code, out) == (1, "") and err.count("\n") == 1 and str(path) in err


def a_tool(monkeypatch: pytest.MonkeyPatch, *, ends: int = 0) -> list[list[str]]:
    """Let `generate` be a tool that prints half a line and makes two calls; the arguments that it was given."""
    given: list[list[str]] = []

    def main(argv: list[str]) -> int:
        given.append(argv)
        recorder.note({"kind": "device", "device": HEADER["device"]})
        sys.stdout.write(" Paris")
        for name in ("cuInit", "cuMemAlloc"):
            recorder.after(recorder.before(name, {}), "ok")
        return ends

    monkeypatch.setitem(sys.modules, "tools.generate", SimpleNamespace(main=main))
    return given


def test_a_tool_runs_with_its_own_arguments_and_its_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    given = a_tool(monkeypatch, ends=3)
    path = tmp_path / "calls.jsonl"
    code, out, err = run(capsys, "--gpu-times", "off", "--jsonl", path, "generate", "--json", "--calls", "x", "Hello")
    assert (code, err) == (3, "") and given == [["--json", "--calls", "x", "Hello"]]
    lines = out.splitlines()
    assert " Paris" in lines and any("cuMemAlloc" in line for line in lines)  # each on a line of its own
    recording = Recording.read(path)
    assert [call["call"] for call in recording.calls] == ["cuInit", "cuMemAlloc"]
    assert recording.header["command"] == "generate --json --calls x Hello"


def test_a_tool_that_makes_no_call_has_no_table(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "tools.generate", SimpleNamespace(main=lambda argv: 2))
    code, out, err = run(capsys, "--layer", "3", "generate", "--nonsense")
    assert (code, out, err) == (2, "", "cutaway trace: no driver call was made\n")


def test_json_has_stdout_for_itself(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    a_tool(monkeypatch)
    code, out, err = run(capsys, "--gpu-times", "off", "--json", "generate")
    assert code == 0 and err == " Paris"
    assert {call["call"] for call in json.loads(out)["calls"]} == {"cuInit", "cuMemAlloc"}


def test_help_has_examples_of_options_that_exist(repository: Path) -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "tools.trace", "--help"], cwd=repository, capture_output=True, text=True, check=True
    ).stdout
    examples = [line.partition("#")[0] for line in shown.splitlines() if line.startswith("  python -m tools.trace")]
    options, text = (
        {word for line in examples for word in line.split() if word.startswith("--")},
        shown.split("examples:")[0],
    )
    assert len(examples) >= 8 and {one for one in options if one not in text} <= {"--max-tokens", "--raw"}


def test_the_page_lists_every_option(repository: Path) -> None:
    rows = (repository / "docs" / "trace.md").read_text().partition("### All options")[2].split("\n\n")[1]
    listed = set(re.findall(r"`(--?[a-z-]+)", rows))
    known = {option for action in trace.make_parser()._actions for option in action.option_strings}
    assert listed == known - {"-h", "--help"}
