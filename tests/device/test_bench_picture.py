"""The picture of who ran in which step: drawn from a run, complete, and the same as the ones in docs/."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest

from bindings.device import Device
from tests.source_tree import REPOSITORY
from tools import bench, cli
from tools.bench import rates
from tools.bench.picture import summary
from tools.bench.timeline import Timeline
from tools.bench.workload import random_jobs

SVG = "{http://www.w3.org/2000/svg}"
PAGE = REPOSITORY / "docs" / "batching.md"
DRAWN = re.findall(r"^(python -m tools\.bench .*?--picture docs/\S+\.svg)$", PAGE.read_text(encoding="utf-8"), re.M)
Draw = Callable[[list[str]], ElementTree.Element]

WORKLOAD = "--num-prompts 7 --input-len 3-40 --output-len 2-30 --max-num-seqs 4 --max-num-batched-tokens 16"


@pytest.fixture
def bench_run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[[list[str]], str]:
    """Runs a benchmark in this process, with quick measurements of the device; what it prints."""
    monkeypatch.setattr(rates, "COPY_BYTES", 1 << 16)
    monkeypatch.setattr(rates, "ROW", 1 << 10)
    monkeypatch.setattr(rates, "LARGEST_PRODUCT", 256)

    def run(argv: list[str]) -> str:
        code, (out, err) = cli.run(bench.make_parser(), bench.body, argv), capsys.readouterr()
        assert (code, err) == (0, ""), err
        return out

    return run


@pytest.fixture
def draw(bench_run: Callable[[list[str]], str], device: Device, tmp_path: Path) -> Draw:
    """The picture of a small run with these options."""

    def run(options: list[str]) -> ElementTree.Element:
        path = tmp_path / "picture.svg"
        common = ["--random-weights", "toy", "--device", device.kind, "--quiet", "--num-iters-warmup", "0"]
        bench_run([options[0], *shlex.split(WORKLOAD), *common, *options[1:], "--picture", str(path)])
        assert [found.name for found in tmp_path.iterdir()] == ["picture.svg"]
        return ElementTree.fromstring(path.read_text(encoding="utf-8"))

    return run


def rows_of(picture: ElementTree.Element) -> list[ElementTree.Element]:
    return [group for group in picture.iter(f"{SVG}g") if group.get("id", "").startswith("request-")]


def cells(row: ElementTree.Element, kind: str) -> list[ElementTree.Element]:
    return [rect for rect in row.iter(f"{SVG}rect") if rect.get("class") == kind]


def tokens(row: ElementTree.Element, kind: str) -> int:
    return sum(int(rect.attrib["data-tokens"]) for rect in cells(row, kind))


@pytest.mark.parametrize("options", [["throughput"], ["throughput", "--batching", "static"], ["serve-sim"]])
def test_a_row_for_each_request_and_a_cell_for_each_piece_of_it(draw: Draw, options: list[str]) -> None:
    rows, jobs = rows_of(draw(options)), random_jobs(7, (3, 40), (2, 30), 0, 256)
    assert len(rows) == len(jobs)
    for row, job in zip(rows, jobs, strict=True):
        assert tokens(row, "prefill") == len(job.prompt)
        assert len(cells(row, "decode")) == tokens(row, "decode") == job.output_len - 1  # the prompt gives the first
        places = [float(rect.attrib["x"]) for rect in row.iter(f"{SVG}rect")]
        assert places == sorted(set(places)), "one cell a step"


def test_who_is_preempted_prefills_again_what_it_had(draw: Draw) -> None:
    rows, jobs = (
        rows_of(draw(["throughput", "--kv-cache-bytes", str(6 * 16 * 1024)])),
        random_jobs(7, (3, 40), (2, 30), 0, 256),
    )
    preempted = [row for row in rows if cells(row, "preempted")]
    assert preempted
    for row, job in zip(rows, jobs, strict=True):
        ran = tokens(row, "prefill") + tokens(row, "decode")
        needed = len(job.prompt) + job.output_len - 1
        assert ran > needed if row in preempted else ran == needed


def test_only_the_first_of_many_are_drawn_and_the_picture_says_so() -> None:
    timeline = Timeline(num_seats=4, max_rows=3, max_steps=2)
    for number in range(9):
        timeline.arrives(number, prompt_len=5, output_len=5)
    assert len(timeline.rows) == 3
    timeline.num_steps, timeline.running = 8, [(1, 0), (2, 0)]
    assert "9 requests" in summary(timeline, 16)
    assert summary(timeline, 16).endswith("8 steps; here the first 3 requests in the first 2 steps")


@pytest.mark.parametrize("name", ["picture.png", "no such folder/picture.svg"])
def test_a_file_that_cannot_be_drawn_is_refused_before_anything_runs(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(bench.make_parser(), bench.body, ["throughput", "--picture", name]) == 2
    assert name in capsys.readouterr().err


@pytest.mark.cpu_device_only
@pytest.mark.parametrize("command", DRAWN, ids=lambda command: Path(command.split()[-1]).stem)
def test_the_pictures_in_docs_are_what_their_commands_draw(
    command: str, bench_run: Callable[[list[str]], str], tmp_path: Path
) -> None:
    *argv, name = shlex.split(command)[3:]
    fresh = tmp_path / "fresh.svg"
    bench_run([*argv, str(fresh), "--quiet"])
    assert fresh.read_text(encoding="utf-8") == (REPOSITORY / name).read_text(encoding="utf-8"), f"run: {command}"


def test_every_picture_has_its_command() -> None:
    names = {Path(command.split()[-1]).name for command in DRAWN}
    assert names == {path.name for path in PAGE.parent.glob("batching-*.svg")}
