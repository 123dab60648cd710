"""tools/trace/perfetto.py: the file keeps the rules of the Chrome trace event format, and says what the trace says."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bindings.errors import CutawayError
from tests.trace_events import HEADER, Maker, feed, note
from tools.trace.perfetto import DEVICE, HOST, Perfetto

Record = dict[str, Any]


def written(maker: Maker, path: Path) -> list[Record]:
    feed(Perfetto(path), maker.events)
    return json.loads(path.read_text())["traceEvents"]


@pytest.fixture
def records(tmp_path: Path) -> list[Record]:
    """A prefill, a captured decode step, two graph launches, memory, a note; two kernels that overlap."""
    maker = Maker()
    maker.alloc("embed", 1000)
    maker.events.append(note(1, free=38, cached=[7], running=1, waiting=2))
    maker.step(1, "prefill")
    maker.captured_step(2)
    maker.graph_launch(3)
    early = maker.launch("overlapping", "step 4 / decode", us=30.0)
    maker.device_us -= 20.0
    maker.launch("overlapped", "step 4 / decode", us=30.0)
    assert early["activities"][0]["end_us"] > maker.events[-1]["activities"][0]["start_us"]
    return written(maker, tmp_path / "trace.json")


def of_kind(records: list[Record], phase: str) -> Iterator[Record]:
    return (record for record in records if record["ph"] == phase)


def test_every_record_is_of_a_known_kind_with_what_that_needs(records: list[Record]) -> None:
    needs = {"X": {"name", "dur"}, "M": {"name", "args"}, "C": {"name", "args"}, "s": {"id", "name"}, "f": {"id", "bp"}}
    for record in records:
        assert record["ph"] in needs
        assert needs[record["ph"]] <= record.keys() and isinstance(record["pid"], int)
        assert math.isfinite(record["ts"]) and record["ts"] >= 0
        assert record["ph"] != "X" or (math.isfinite(record["dur"]) and record["dur"] >= 0)


def test_timestamps_are_ordered(records: list[Record]) -> None:
    times = [record["ts"] for record in records if record["ph"] != "M"]
    assert times == sorted(times)


def test_slices_of_a_lane_nest(records: list[Record]) -> None:
    lanes: dict[tuple[int, int], list[Record]] = {}
    for record in of_kind(records, "X"):
        lanes.setdefault((record["pid"], record["tid"]), []).append(record)
    assert len(lanes) == 3  # the host, a stream, and what overlaps on it
    for lane in lanes.values():
        stack: list[float] = []
        for record in lane:
            while stack and stack[-1] <= record["ts"] + 1e-6:
                stack.pop()
            end = record["ts"] + record["dur"]
            assert not stack or end <= stack[-1] + 1e-6, record
            stack.append(end)


def test_an_overlap_that_the_clock_cannot_tell_is_none(tmp_path: Path) -> None:
    maker = Maker()
    maker.launch("rmsnorm", us=3.0)
    maker.device_us -= 0.6
    maker.now_us = 0.0
    maker.launch("argmax", us=2.0)
    first, second = (one for one in of_kind(written(maker, tmp_path / "trace.json"), "X") if one["pid"] == DEVICE)
    assert first["tid"] == second["tid"]
    assert first["dur"] == pytest.approx(2.4) and first["args"]["device_us"] == pytest.approx(3.0)
    assert second["dur"] == pytest.approx(2.0) and "device_us" not in second["args"]


def test_each_arrow_leads_from_its_call_to_what_it_started(records: list[Record]) -> None:
    starts = {record["id"]: record for record in of_kind(records, "s")}
    ends = {record["id"]: record for record in of_kind(records, "f")}
    assert starts.keys() == ends.keys() and len(starts) == sum(
        record["pid"] == DEVICE for record in of_kind(records, "X")
    )
    slices = list(of_kind(records, "X"))
    for number, start in starts.items():
        end = ends[number]
        assert end["ts"] >= start["ts"] and (start["pid"], end["pid"]) == (HOST, DEVICE) and end["bp"] == "e"
        for place in (start, end):  # bound: there is a slice of that lane at that time
            lane = (one for one in slices if (one["pid"], one["tid"]) == (place["pid"], place["tid"]))
            assert any(one["ts"] <= place["ts"] <= one["ts"] + one["dur"] for one in lane)


def test_a_graph_launch_points_at_each_of_its_kernels(records: list[Record]) -> None:
    launch = [record for record in of_kind(records, "X") if record["name"] == "cuGraphLaunch"][-1]
    arrows = [record for record in of_kind(records, "s") if record["ts"] == launch["ts"]]
    assert len(arrows) == 12
    norm = [record for record in of_kind(records, "X") if record["pid"] == DEVICE and record["name"] == "rmsnorm"][-1]
    assert norm["args"]["label"] == "step 3 / decode / layer 3 / attention" and norm["args"]["grid"] == [5, 1, 1]


def test_labels_are_slices_around_their_calls(records: list[Record]) -> None:
    host = [record for record in of_kind(records, "X") if record["pid"] == HOST]
    (prefill,) = (record for record in host if record["name"] == "prefill")
    inside = [one for one in host if prefill["ts"] <= one["ts"] < prefill["ts"] + prefill["dur"]]
    assert sum(one["name"].startswith("layer ") for one in inside) == 4
    assert sum(one["name"] == "cuLaunchKernel rmsnorm" for one in inside) == 4


def test_counters_and_names_are_there(records: list[Record]) -> None:
    counters = {record["name"]: record["args"] for record in of_kind(records, "C")}
    assert counters == {
        "memory by owner": {"weights": 1000},
        "KV pages": {"held": 2, "cached": 1},
        "sequences": {"running": 1, "waiting": 2},
    }
    names = {record["args"]["name"] for record in of_kind(records, "M")}
    assert {"Test GPU", "stream 1", "stream 1, overlapping (1)"} <= names


def test_a_clock_that_is_off_makes_no_arrow_into_the_past(tmp_path: Path) -> None:
    maker = Maker()
    maker.now_us = 50.0
    maker.launch("rmsnorm")
    maker.events[0]["activities"][0]["start_us"] = 20.0
    records = written(maker, tmp_path / "trace.json")
    assert not list(of_kind(records, "s")) and len(list(of_kind(records, "X"))) == 2


def test_each_record_has_a_line_for_grep(records: list[Record], tmp_path: Path) -> None:
    first, *lines, last = (tmp_path / "trace.json").read_text().splitlines()
    assert [json.loads(line.removesuffix(",")) for line in lines] == records
    assert json.loads(f"{first}{last}")["traceEvents"] == []


def test_what_ran_is_told_beside_the_events(tmp_path: Path) -> None:
    feed(Perfetto(tmp_path / "t.json"), [])
    whole = json.loads((tmp_path / "t.json").read_text())
    assert whole["otherData"] == {key: HEADER[key] for key in ("command", "clock", "started")}


def test_a_file_that_can_not_be_written_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(CutawayError, match="cannot write the trace"):
        feed(Perfetto(tmp_path / "no" / "trace.json"), [])
