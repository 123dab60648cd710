"""Running tools.generate in a process of its own, and a compiler that remembers, so that a cold start is quick."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

COMMAND = [sys.executable, "-m", "tools.generate"]
# Some shells start background jobs with SIGINT ignored, and a child inherits that.
RESTORE_SIGINT = "import signal, sys, runpy; signal.signal(signal.SIGINT, signal.default_int_handler); "

# g++ without optimising, its outputs kept by what it was given: sources, objects and flags. Headers do not change
# while tests run.
REMEMBERING_COMPILER = """#!/bin/sh
output= previous= inputs= flags=
for word in "$@"; do
    [ "$previous" = -o ] && output=$word
    case "$word" in
        *.cpp | *.o | */prefix.h) [ "$previous" = -o ] || inputs="$inputs $word" ;;
        -o | -I* | -iquote* | -include) ;;
        *) [ "$previous" = -o ] || flags="$flags $word" ;;
    esac
    previous=$word
done
[ -n "$output" ] && [ -n "$inputs" ] || exec g++ "$@"
key=$({ echo "$flags"; cat $inputs; } | md5sum | cut -c1-32)
if [ ! -f {store}/$key ]; then
    g++ "$@" -O0 || exit $?
    cp "$output" {store}/.$key.$$ && mv {store}/.$key.$$ {store}/$key
    exit 0
fi
exec cp {store}/$key "$output"
"""


def interruptible(module: str, prelude: str = "") -> list[str]:
    """The command that runs a tool which heeds SIGINT whatever this process does, after the Python of `prelude`."""
    run_it = f"sys.argv[0] = {module!r}; runpy.run_module({module!r}, run_name='__main__', alter_sys=True)"
    return [sys.executable, "-c", RESTORE_SIGINT + prelude + run_it]


def run(
    repository: Path, *options: str | Path, text: str | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run the tool to its end, with variables of the environment replaced."""
    return subprocess.run(
        [*COMMAND, *map(str, options)],
        cwd=repository,
        env={**os.environ, **environment},
        input=text,
        stdin=subprocess.DEVNULL if text is None else None,
        capture_output=True,
        text=True,
        timeout=240,
    )


def start(repository: Path, *options: str | Path, prelude: str = "", **environment: str) -> subprocess.Popen[bytes]:
    """Start the tool with pipes on stdout and stderr, ready to be interrupted, after the Python of `prelude`."""
    return subprocess.Popen(
        [*interruptible("tools.generate", prelude), *map(str, options)],
        cwd=repository,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,  # so that a signal to its group meets nobody else
    )


def kill(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL, as the out-of-memory killer sends it: to the process alone."""
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)


def assert_one_line(result: subprocess.CompletedProcess[str], code: int, *named: str) -> None:
    """The run failed with `code`, said nothing on stdout and one line on stderr that has all of `named`."""
    assert result.returncode == code, result.stderr
    assert result.stdout == ""
    assert result.stderr.startswith("cutaway generate: error: ") and result.stderr.count("\n") == 1, result.stderr
    for word in named:
        assert word in result.stderr


def write_script(path: Path, text: str) -> Path:
    """An executable file."""
    path.write_text(text)
    path.chmod(0o755)
    return path


def remembering_compiler(folder: Path) -> Path:
    """REMEMBERING_COMPILER with its store in `folder`."""
    (folder / "store").mkdir()
    return write_script(folder / "c++", REMEMBERING_COMPILER.replace("{store}", str(folder / "store")))


def leftovers(cache: Path) -> list[Path]:
    """Folders aside that are still there."""
    return list(cache.rglob(".part-*"))
