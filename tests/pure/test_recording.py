"""A trace as data: what is written is read back, and what is no trace is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bindings.errors import CutawayError
from tests.large_trace import call
from tests.trace_events import HEADER as FULL_HEADER
from tests.trace_events import Maker, note
from tools import trace
from tools.trace.recording import Recording, TraceError

HEADER = {"kind": "header", "version": 1, "command": "generate Hi", "device": None, "clock": "none", "rates": None}


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    maker = Maker()
    maker.call("cuInit")
    maker.launch("rmsnorm")
    records = [maker.events[0], note(1), maker.events[1]]
    Recording(HEADER, records).write(tmp_path / "a.jsonl")
    read = Recording.read(tmp_path / "a.jsonl")
    assert (read.header, read.records) == (HEADER, records)
    assert [one["n"] for one in read.calls] == [1, 2]
    assert [note["step"] for note in read.steps] == [1]
    assert [file.name for file in tmp_path.iterdir()] == ["a.jsonl"]


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "line 1 is no header"),
        ('{"kind": "call"}\n', "line 1 is no header"),
        ('{"kind": "header", "version": 1}\n', "line 1 is not whole: a header has 'command', and this has none"),
        (f"{json.dumps(HEADER)}\nno json\n", "line 2 is no JSON"),
        pytest.param(f"{json.dumps(HEADER)}\n{'[' * 100_000}\n", "line 2 is no JSON", id="nested"),
        (f"{json.dumps(HEADER)}\n[1]\n", "line 2 is no record"),
        (f'{json.dumps(HEADER)}\n{{"a": 1}}\n', "line 2 is no record"),
        (f'{json.dumps(HEADER)}\n{{"kind": "dance"}}\n', "line 2 is a record of the kind 'dance'"),
        (f"{json.dumps(HEADER)}\n{json.dumps(HEADER)}\n", "line 2 is a second header"),
        ('{"kind": "header", "version": 9}\n', "version 9"),
        (f'{json.dumps(HEADER)}\n{{"kind": "call", "n": 1, "args": {{}}', "cut off in line 2; .*: head -n 1 "),
        pytest.param(f"{json.dumps(HEADER)}\n{'[' * 100_000}", "cut off in line 2", id="nested and cut off"),
        ("\x00\x01\x02", "line 1 is no JSON"),
    ],
)
def test_what_is_no_trace_is_refused_with_its_place(tmp_path: Path, text: str, what: str) -> None:
    path = tmp_path / "b.jsonl"
    path.write_text(text)
    with pytest.raises(TraceError, match=what) as refused:
        Recording.read(path)
    assert str(path) in str(refused.value)


def test_reading_a_large_trace_tells_how_far_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "large.jsonl"
    Recording(HEADER, [call(n, float(n), "cuInit") for n in range(1, 50)]).write(path)
    Recording.read(path)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("tools.trace.recording.LARGE", 1000)
    Recording.read(path)
    assert capsys.readouterr().err == f"read the trace ({path.stat().st_size / 1e6:.1f} MB)\n"


def test_each_key_that_views_rely_on_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each key of each kind of record is left out, then no value: one line with its place, or a view of the rest."""
    maker = Maker()
    maker.alloc("embed", 100)
    maker.captured_step(1, layers=1)
    maker.step(2, layers=1)
    records = [*maker.events, note(1, tables={"0": [1]})]
    kinds = {(record["kind"], record.get("call")): number for number, record in enumerate(records)}
    path, refused = tmp_path / "c.jsonl", set()
    for number, key in [(chosen, key) for chosen in kinds.values() for key in records[chosen] if key != "kind"]:
        for changed in ({}, {key: None}):
            broken = {name: value for name, value in records[number].items() if name != key} | changed
            Recording(FULL_HEADER, [*records[:number], broken, *records[number + 1 :]]).write(path)
            code, err = trace.main(["--open", str(path), "--explain"]), capsys.readouterr().err
            place = f"cutaway trace: error: {path}: line {number + 2} "
            assert code == 0 or (code == 1 and err.startswith(place) and err.count("\n") == 1)
            refused |= {key} if code else set()
    assert {"n", "t_us", "host_us", "params", "tensors", "bytes", "sizes", "nbytes", "activities", "tables"} <= refused


def test_a_link_stays_one_and_its_file_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    Recording(HEADER).write(tmp_path / "link")
    assert (tmp_path / "link").is_symlink() and Recording.read(tmp_path / "file").header == HEADER


def test_what_is_no_file_is_written_and_not_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with subprocess.Popen(["cat", pipe], stdout=subprocess.PIPE, text=True) as reader:
        Recording(HEADER).write(pipe)
        assert reader.stdout is not None and json.loads(reader.stdout.read()) == HEADER
    assert pipe.is_fifo()


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path, repository: Path) -> None:
    """A limit to the size of files stands for the disk."""
    script = """
import resource, sys
from pathlib import Path
from bindings.errors import CutawayError
from tools.trace.recording import Recording
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    Recording({"kind": "header"}, [{"kind": "call", "n": n} for n in range(100_000)]).write(Path(sys.argv[1]))
except CutawayError as error:
    print(error)
"""
    target = tmp_path / "calls.jsonl"
    command = [sys.executable, "-c", script, str(target)]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=True)
    assert done.stdout == f"cannot write the trace to {target}: File too large\n" and done.stderr == ""
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(CutawayError, match="cannot write the trace to"):
        Recording(HEADER).write(tmp_path / "no" / "c.jsonl")
