"""The guided walks of docs/trace.md: each command is run again, and must print what the page shows.

In a block marked `console`, a line that begins with `$ ` is a command (the next lines belong to it while it ends in a
backslash), and what follows is what it prints: all of it, but for what `[...]` on a line of its own leaves out. Times,
rates and shares differ from run to run: every number with a unit, or with a point in it, stands for any other, be it in
us or, on a busy machine, in ms. So do addresses, lines of Python, the number of a call, and which kernel takes longest.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.source_tree import REPOSITORY

PAGE = REPOSITORY / "docs" / "trace.md"
GAP = "[...]"

_BLOCK = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_ADDRESS = re.compile(r"\b0x[0-9a-f]+\b")
_LINE = re.compile(r"(\.py:)\d+")
_NUMBER = re.compile(r"^\d+ (?=#)")  # of a call: compiling kernels makes calls, too
_MEASURED = re.compile(
    r"(?<![\w.])-?\d[\d,]*(?:\.\d+)?(?= ?(?:us|ms|s|%|[kMGT]?B/s|[MGT]FLOP/s)(?:\W|$))|(?<![\w.])\d+\.\d+\b"
)


_UNIT = re.compile(r"# (?:(us|ms|s)|[kMGT]?(B/s|FLOP/s))(?!\S)")
_LONGEST = re.compile(r"^\S.* \d+ times (?=# s # %$)")


@dataclass(frozen=True)
class Walk:
    """A command and what it prints."""

    command: str
    output: list[str]


def walks(text: str) -> list[Walk]:
    found = []
    for block in _BLOCK.findall(text):
        lines = block.splitlines()
        assert lines[0].startswith("$ "), f"a console block must begin with a command: {lines[0]}"
        count = 1
        while lines[count - 1].endswith("\\"):
            count += 1
        found.append(Walk("\n".join(lines[:count]).removeprefix("$ "), lines[count:]))
    return found


def comparable(line: str) -> str:
    """A line without what differs from run to run; runs of blanks, which align numbers, count as one."""
    measured = _MEASURED.sub("#", _LINE.sub(r"\1#", _ADDRESS.sub("0x#", line)))
    line = _NUMBER.sub("# ", re.sub(r"\s+", " ", measured).strip())
    return _LONGEST.sub("", _UNIT.sub(lambda unit: f"# {unit[2] or 's'}", line))


def first_difference(shown: list[str], printed: list[str]) -> str | None:
    """What of the page is not in the output, in this order; None if all is."""
    wanted, got = [comparable(line) for line in shown], [comparable(line) for line in printed]
    place, floating = 0, False
    for number, line in enumerate(wanted):
        if line == GAP:
            floating = True
            continue
        places = range(place, len(got)) if floating else range(place, min(place + 1, len(got)))
        found = next((at for at in places if got[at] == line), None)
        if found is None:
            return f"the page shows\n  {shown[number]}\nbut here comes\n  " + "\n  ".join(printed[place : place + 3])
        place, floating = found + 1, False
    return None if floating or place == len(got) else f"the page ends, but more is printed: {printed[place]}"


WALKS = walks(PAGE.read_text(encoding="utf-8"))


def test_the_page_has_walks() -> None:
    assert len(WALKS) >= 4


@pytest.mark.cpu_device_only
@pytest.mark.parametrize("walk", WALKS, ids=lambda walk: walk.command.split("\n")[0][:60])
def test_what_the_page_shows_is_what_is_printed(repository: Path, tmp_path: Path, walk: Walk) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").symlink_to(sys.executable)
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{tmp_path / 'bin'}:{os.environ['PATH']}",
        "CUTAWAY_DEVICE": "cpu",
        "COLUMNS": "120",
        "NO_COLOR": "1",
    }
    command = walk.command.replace("/tmp/", f"{tmp_path}/")
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command],
        cwd=repository, capture_output=True, text=True, timeout=120, env=environment, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    difference = first_difference(walk.output, done.stdout.splitlines())
    assert difference is None, f"{walk.command}\n{difference}"


@pytest.mark.parametrize(
    ("shown", "printed", "same"),
    [
        (["a 1.5 ms", "[...]", "z"], ["a  27 ms", "b", "c", "z"], True),
        (["a 241 us  6.66 GB/s  45 %"], ["a 2.41 ms   666 MB/s 4.5 %"], True),
        (["a 241 us  6.66 GB/s"], ["a 241 us  6.66 GFLOP/s"], False),
        (["gemm x  30 times  14.9 ms  21 %"], ["embedding  1 times  1.9 s  9.1 %"], True),
        (["kernels 12"], ["kernels 13"], False),
        (["a", "z"], ["a", "b", "z"], False),
        (["a"], ["a", "b"], False),
        (["a", "[...]"], ["a", "b"], True),
        (["a", "b"], ["a"], False),
        (["at 0x7f12 of kv_pages+0x40"], ["at 0x7f99 of kv_pages+0x80"], True),
        (["page 1, slot 17"], ["page 1, slot 18"], False),
    ],
)
def test_the_comparison_sees_what_differs(shown: list[str], printed: list[str], same: bool) -> None:
    assert (first_difference(shown, printed) is None) is same
