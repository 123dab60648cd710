"""How a tool ends: each way gives one line on stderr and its exit code, and nothing on stdout."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from bindings.errors import CutawayError
from tests.tool_runs import RESTORE_SIGINT
from tools import cli


def make_parser() -> cli.Parser:
    parser = cli.Parser("sample", "A tool for this test.", "  python -m tools.sample")
    parser.add_argument("--count", type=int, default=1)
    cli.add_common_options(parser)
    return parser


def raising(error: BaseException) -> cli.Body:
    def body(_: argparse.Namespace) -> None:
        raise error

    return body


def test_success_prints_what_the_body_prints(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(make_parser(), lambda arguments: print(arguments.count), ["--count", "3"]) == 0
    assert capsys.readouterr() == ("3\n", "")


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (CutawayError("no such model"), 1, "error: no such model"),
        (cli.UsageError("no prompt"), 2, "error: no prompt"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (OSError(28, "No space left on device"), 1, "error: No space left on device"),
        (PermissionError(13, "Permission denied", "/x/y"), 1, "error: /x/y: Permission denied"),
        (MemoryError(), 1, "error: out of memory on the host"),
        (
            ModuleNotFoundError("No module named 'gguf'", name="gguf"),
            1,
            "error: the Python package 'gguf' is missing: run pip install -e . first",
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_error_is_one_line(capsys: pytest.CaptureFixture[str], error: BaseException, code: int, line: str) -> None:
    assert cli.run(make_parser(), raising(error), []) == code
    assert capsys.readouterr() == ("", f"cutaway sample: {line}\n")


@pytest.mark.parametrize("error", [ValueError("bug"), ModuleNotFoundError("gone", name="engine.gone")])
def test_bug_keeps_its_traceback(error: Exception) -> None:
    with pytest.raises(type(error)) as caught:
        cli.run(make_parser(), raising(error), [])
    assert caught.value is error


def test_debug_shows_the_traceback_before_the_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(make_parser(), raising(CutawayError("broken")), ["--debug"]) == 1
    stderr = capsys.readouterr().err
    assert stderr.startswith("Traceback (most recent call last):")
    assert stderr.endswith("cutaway sample: error: broken\n")


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (["--cuont", "1"], "unrecognized arguments: --cuont 1"),
        (["--cou", "1"], "unrecognized arguments: --cou 1"),
        (["--count"], "argument --count: expected one argument"),
        (["--count", "many"], "argument --count: invalid int value: 'many'"),
        (["--device", "gpu"], "argument --device: invalid choice: 'gpu'"),
        (["stray"], "unrecognized arguments: stray"),
    ],
)
def test_wrong_option_is_one_line(capsys: pytest.CaptureFixture[str], argv: list[str], named: str) -> None:
    assert cli.run(make_parser(), raising(AssertionError("the body must not run")), argv) == 2
    stdout, stderr = capsys.readouterr()
    assert stdout == ""
    assert stderr.count("\n") == 1
    assert stderr.startswith(f"cutaway sample: error: {named}")


def test_help_shows_the_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.run(make_parser(), raising(AssertionError("the body must not run")), ["--help"])
    assert caught.value.code == 0
    assert "examples:\n  python -m tools.sample\n" in capsys.readouterr().out


def test_trace_file_that_cannot_be_written_is_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    target = tmp_path / "missing" / "calls.jsonl"
    assert cli.run(make_parser(), raising(AssertionError("no run")), ["--trace", str(target)]) == 1
    stdout, stderr = capsys.readouterr()
    assert stdout == "" and stderr.count("\n") == 1 and str(target) in stderr


def test_reader_that_goes_away_ends_the_tool_quietly(repository: Path) -> None:
    """As in `tool | head -1`: no traceback, no "Exception ignored", the exit code of a broken pipe."""
    program = """
import sys
import threading
from tests.tool_runs import RESTORE_SIGINT
from tools import cli

def body(arguments):
    for number in range(100_000):
        print(number)

parser = cli.Parser("sample", "", "")
cli.add_common_options(parser)
sys.exit(cli.run(parser, body, []))
"""
    process = subprocess.Popen(
        [sys.executable, "-c", program], cwd=repository, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None and process.stderr is not None
    assert process.stdout.readline() == b"0\n"
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait() == cli.BROKEN_PIPE


def test_a_second_interrupt_ends_what_does_not_hear_of_the_first(repository: Path) -> None:
    """As in a kernel that loops for ever: the main thread is in foreign code, and no handler of Python's runs."""
    program = f"""{RESTORE_SIGINT}
import ctypes, threading
from tools import cli

lock, mutex = ctypes.CDLL(None).pthread_mutex_lock, ctypes.create_string_buffer(64)

def body(arguments):
    threading.Timer(0.5, print, ["ready"], {{"flush": True}}).start()
    lock(mutex)
    lock(mutex)  # for ever, also after a signal

parser = cli.Parser("sample", "", "")
cli.add_common_options(parser)
sys.exit(cli.run(parser, body, []))
"""
    process = subprocess.Popen(
        [sys.executable, "-c", program], cwd=repository, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stderr is not None
    try:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        assert process.stderr.readline() == f"{cli.WAITS.format('sample')}\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == cli.INTERRUPTED
        assert process.stderr.read() == ""
    finally:
        process.kill()
        process.communicate()


def test_a_run_leaves_signals_and_descriptors_as_they_were() -> None:
    def held() -> tuple[object, int, int]:
        descriptor = signal.set_wakeup_fd(-1)
        signal.set_wakeup_fd(descriptor)
        return signal.getsignal(signal.SIGINT), descriptor, len(os.listdir("/proc/self/fd"))

    def end_of_listeners() -> None:
        for thread in threading.enumerate():
            if thread.name == "Ctrl-C":
                thread.join(timeout=60)

    before = held()
    for _ in range(3):
        assert cli.run(make_parser(), lambda arguments: None, []) == 0
    end_of_listeners()
    assert held() == before
