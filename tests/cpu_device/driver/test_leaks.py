"""What lives when the context or the process ends: told if asked for, by kind, name, size and line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

LEAKS = """
from bindings.device import Device, Event, Stream
from engine import ops

device = Device.open("cpu")
kept = device.alloc(1000, "kept")
host = device.alloc_host(24, "staging")
stream, events = Stream(device), [Event() for _ in range(7)]
table = device.empty((4, 8), ops.BF16, "table")
ids, out = device.empty((4,), ops.I32, "ids"), device.empty((4, 8), ops.BF16, "out")
ops.EMBEDDING.kernel(device, {})
with stream.capture() as graph:
    ops.EMBEDDING(stream, out=out, token_ids=ids, table=table)
"""
TIDY = """
graph.close()
stream.close()
for event in events:
    event.close()
host.free()
device.close()
"""


def run(tmp_path: Path, repository: Path, source: str, mode: str = "report") -> subprocess.CompletedProcess[str]:
    """Run `source` as the program leaky.py."""
    (tmp_path / "leaky.py").write_text(source)
    environment = {**os.environ, "PYTHONPATH": str(repository), "CUTAWAY_CPU_LEAKS": mode}
    command = [sys.executable, str(tmp_path / "leaky.py")]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


def test_a_process_that_frees_nothing_is_told_of_each_kind(tmp_path: Path, repository: Path) -> None:
    done = run(tmp_path, repository, LEAKS)
    assert done.returncode == 0
    lines = done.stderr.splitlines()
    expected = (
        "4 device allocations of", "1 pinned host allocation of", "2 streams:", "7 events:", "1 module:", "1 graph:",
        "1 executable graph:",
    )  # fmt: skip
    for kind in expected:
        assert sum(line.startswith(f"cutaway: leaked {kind} ") for line in lines) == 1, (kind, done.stderr)
    assert len(lines) == len(expected)
    assert lines[0].startswith("cutaway: leaked 4 device allocations of 1144 bytes in all: kept (1000 bytes, from ")
    assert f"{tmp_path}/leaky.py:6)" in lines[0] and "table (64 bytes" in lines[0]
    assert "staging (24 bytes, from" in lines[1]
    events = next(line for line in lines if " events" in line)
    assert events.count("leaky.py:8") == 5 and events.endswith(" and 2 more")


def test_a_closed_device_is_told_of_what_it_does_not_own(tmp_path: Path, repository: Path) -> None:
    done = run(tmp_path, repository, LEAKS + "graph.close(); stream.close(); device.close()")
    assert done.returncode == 0
    (line,) = done.stderr.splitlines()
    assert line.startswith("cutaway: leaked 7 events: from ")


@pytest.mark.parametrize(
    ("source", "mode"),
    [
        (LEAKS + TIDY, "report"),
        (LEAKS, "ignore"),
        (LEAKS, ""),
        (
            "from bindings.device import Device\nwith Device.open('cpu') as device:\n  device.alloc(8, 'owned')",
            "report",
        ),
        ("from bindings.backend import select\nselect('cpu')", "report"),
    ],
    ids=["tidy", "ignored", "not asked for", "owned by its device", "no context"],
)
def test_nothing_is_told_of_a_tidy_program_or_unasked(source: str, mode: str, tmp_path: Path, repository: Path) -> None:
    done = run(tmp_path, repository, source, mode)
    assert (done.returncode, done.stderr) == (0, "")
