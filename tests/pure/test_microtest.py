"""tools.microtest without a device: its command line, its shapes and inputs, its arithmetic, its charts."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from bindings.dtypes import BF16, F32
from engine import ops
from tests.source_tree import REPOSITORY, opening_comment
from tools import microtest
from tools.bench import rates
from tools.bench.rates import Rates
from tools.cli import UsageError
from tools.microtest import chart, nvidia_programs, sanitize
from tools.microtest.catalogue import KERNELS, LADDERS, from_file
from tools.microtest.ceiling import figure, impossible
from tools.microtest.chart import Axis, Chart, Series
from tools.microtest.chart_files import draw, require_writable
from tools.microtest.compare import _sources
from tools.microtest.correctness import _ulps, worst_of
from tools.microtest.harness import Problem, cases_of
from tools.microtest.inputs import arrays_for, scalars_for, shape_of
from tools.microtest.paired import difference
from tools.microtest.resources import Multiprocessor, occupancy
from tools.microtest.shapes import MODELS, Workload, workloads
from tools.microtest.sweep import sizes_of
from tools.microtest.timing import Timing

H100 = Multiprocessor(
    warps=64, blocks=32, registers=65536, smem=228 << 10, smem_reserved=1024, smem_unit=128, warp_size=32
)


def test_without_a_kernel_it_lists_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert microtest.main([]) == 0
    listed = capsys.readouterr().out
    assert all(f"{name} " in listed and op.summary in listed for name, op in KERNELS.items())
    assert microtest.main(["--json"]) == 0
    found = json.loads(capsys.readouterr().out)["kernels"]
    assert {one["name"]: one["cases"] for one in found}["gemm"] == len(cases_of(KERNELS["gemm"]))


@pytest.mark.parametrize(
    ("text", "named"),
    [("int x;", "it has no entry"), ('extern "C" __global__ void other(int* a) {}', "it has other")],
)
def test_a_file_must_have_an_entry_of_a_kernel(text: str, named: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.cu"
    path.write_text(text)
    with pytest.raises(UsageError, match=named):
        from_file(path, None)
    with pytest.raises(UsageError, match="rmsnorm"):
        from_file(path, "rmsnorm")


@pytest.mark.parametrize("name", sorted(op.source for op in ops.ALL.values()))
def test_the_entry_of_a_shipped_file_is_recognised(name: str) -> None:
    op = from_file(REPOSITORY / "cuda_src" / name, None)
    assert op.source == str(REPOSITORY / "cuda_src" / name) and ops.ALL[op.name].source == name


@pytest.mark.parametrize("name", [name for name, op in KERNELS.items() if op.source])
def test_a_kernel_opens_with_the_command_that_tests_it(name: str) -> None:
    comment = opening_comment((REPOSITORY / "cuda_src" / KERNELS[name].source).read_text())
    assert f"python -m tools.microtest {name}\n" in comment


# ---- Shapes and inputs ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("name", KERNELS)
def test_every_kernel_has_workloads_that_fit_its_spec(name: str, kind: str) -> None:
    op = KERNELS[name]
    found = workloads(op, kind)
    assert found and len({str(one) for one in found}) == len(found)
    for one in found if kind == "cpu" else ():
        arrays, tensors = arrays_for(op, one.symbols), {}
        for arg in op.tensors:
            shape = shape_of(arg, one.symbols)
            tensors[arg.name] = SimpleNamespace(dtype=arg.dtype, shape=shape)
            if arg.role != "out":
                assert arrays[arg.name].shape == shape and arrays[arg.name].dtype == arg.dtype.carrier, arg.name
        assert op.bind({**tensors, **scalars_for(op, one.symbols)}) == one.symbols
        assert op.bytes(SimpleNamespace(**one.symbols)) > 0


def test_what_follows_from_a_shape_follows() -> None:
    (one,) = workloads(ops.DECODE_ATTENTION, "cuda", {"S": 8, "KV": 8 * 3000})
    assert one.symbols["M"] == 188 and one.symbols["P"] == 8 * 188 and one.symbols["C"] == 12
    (one,) = workloads(ops.PREFILL_ATTENTION, "cuda", {"T": 4096})
    assert one.symbols["MAXQ"] == one.symbols["KV"] == 4096


def test_a_pool_that_is_too_small_is_refused() -> None:
    with pytest.raises(UsageError, match="do not fit into"):
        workloads(ops.DECODE_ATTENTION, "cuda", {"S": 4, "P": 10})


def test_sequences_have_pages_of_their_own() -> None:
    (one,) = workloads(ops.DECODE_ATTENTION, "cpu", {"S": 3, "KV": 300})
    tables = arrays_for(ops.DECODE_ATTENTION, one.symbols)["block_tables"]
    assert len(np.unique(tables)) == tables.size and tables.max() < one.symbols["P"]


def test_rungs_of_a_ladder_are_timed_on_the_same_sizes() -> None:
    for rungs in LADDERS.values():
        assert len({tuple(map(str, workloads(op, "cuda"))) for op in rungs}) == 1


@pytest.mark.parametrize(
    ("text", "sizes"),
    [
        ("H=256..2048", [256, 512, 1024, 2048]),
        ("H=100..500", [100, 128, 256, 500]),
        ("H=8..32+8", [8, 16, 24, 32]),
        ("H=8..30+8", [8, 16, 24]),
    ],
)
def test_sizes_of_a_sweep(text: str, sizes: list[int]) -> None:
    assert sizes_of(text) == ("H", sizes)


@pytest.mark.parametrize("text", ["H=8", "H=8..8", "H=0..8", "H=9..8", "H=1..9+0", "H=1..1000+1", "8..9"])
def test_a_sweep_that_means_nothing_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        sizes_of(text)


# ---- Ceiling, occupancy, differences --------------------------------------------------------------------------------


def timed(seconds: float, cache_bytes: int = 0, copies: int = 1, copy_bytes: int = 4096) -> Timing:
    symbols = {"T": 1, "H": 1000}
    return Timing(Workload("one", symbols), (seconds,) * 3, copies, copy_bytes, cache_bytes)


def test_the_floor_is_the_larger_of_two_times() -> None:
    moved, done = 2 * 1000 * 3, 4 * 1000
    memory = figure(ops.RMSNORM, timed(1.0), Rates(moved / 0.5, done / 0.25))
    assert (memory.bound, memory.fraction, memory.intensity) == ("memory", 0.5, done / moved)
    arithmetic = figure(ops.RMSNORM, timed(1.0), Rates(moved / 0.25, done / 0.75))
    assert (arithmetic.bound, arithmetic.fraction) == ("arithmetic", 0.75)


def test_more_than_the_ceiling_is_said_to_be_wrong_and_why() -> None:
    moved, done = 2 * 1000 * 3, 4 * 1000

    def told(timing: Timing, at_best: float) -> str:
        return impossible(timing, figure(ops.RMSNORM, timing, Rates(moved / at_best, done)))

    cold = timed(1.0, cache_bytes=1 << 20, copies=1024)
    assert told(cold, 1.04) == "" and "106 %" in told(cold, 1.06) and "does not move" in told(cold, 1.06)
    assert "lie in the cache" in told(timed(1.0, cache_bytes=1 << 20), 1.06)
    assert told(timed(1.0), 9.0) == "" and "1,100 %" in told(timed(1.0), 11.0)  # a device without a known cache


@pytest.mark.parametrize(
    ("threads", "registers", "smem", "blocks", "by"),
    [
        # By hand, from what a multiprocessor of an H100 has.
        (256, 32, 0, 8, ("warps", "registers")),  # 8 warps of 1024 registers each: 64 of both
        (1024, 64, 0, 1, ("registers",)),  # 32 warps of 2048 registers
        (32, 16, 0, 32, ("blocks",)),
        (128, 40, 100 << 10, 2, ("shared memory",)),  # 101 KB with what is reserved
        (64, 33, 0, 24, ("registers",)),  # 40 registers are handed out: 1280 a warp, 51 warps, 48 in fours
        (96, 255, 0, 2, ("registers",)),  # 8192 a warp: 8 warps, 3 a block
    ],
)
def test_occupancy(threads: int, registers: int, smem: int, blocks: int, by: tuple[str, ...]) -> None:
    found = occupancy(H100, threads, registers, smem)
    assert (found.blocks, found.limited_by) == (blocks, by)
    assert found.fraction == blocks * -(-threads // 32) / 64


def test_a_steady_difference_is_seen_through_drift() -> None:
    drift = [1.0 + 0.1 * step for step in range(20)]
    found = difference(drift, [1.02 * value for value in drift])
    assert found.seen and found.low == pytest.approx(0.02) == found.high and "2.0 % slower" in str(found)


def test_noise_is_no_difference() -> None:
    before = [1.0] * 20
    found = difference(before, [1.0 + (0.05 if step % 2 else -0.05) for step in range(20)])
    assert not found.seen and str(found).startswith("no difference seen (-5.0 to +5.0 %)")


def test_the_interval_has_the_coverage_that_it_claims() -> None:
    """Of the median of 20 pairs: the 6th smallest to the 6th largest, 95.9 % of the time."""
    changes = list(range(1, 21))
    found = difference([1.0] * 20, [1.0 + change for change in changes])
    assert (found.low, found.high) == (6, 15)


@pytest.mark.parametrize(
    ("error", "at", "dtype", "ulps"), [(2**-7, 1.5, BF16, 1.0), (2**-23, 1.0, F32, 1.0), (1, 0, F32, 2.0**149)]
)
def test_ulps(error: float, at: float, dtype: Any, ulps: float) -> None:
    assert _ulps(error, at, dtype) == ulps


def test_the_worst_element_counts_what_may_not_be_written() -> None:
    """An element outside of `written` that changed is worse than any that is off by a little."""
    (arg,) = (arg for arg in ops.ROPE_KV_WRITE.tensors if arg.name == "cos_sin")
    kept = np.zeros((2, 4), np.float32)
    written = np.array([[True, True, False, False]] * 2)
    expected = {"cos_sin": kept + 1.0}
    problem = Problem({"cos_sin": kept}, expected, {"cos_sin": 0.5}, written={"cos_sin": written})
    outputs = {"cos_sin": np.array([[1.4, 1, 0, 0], [1, 1, 0, 0]], np.float32)}
    worst = worst_of(ops.ROPE_KV_WRITE, arg, problem, outputs)
    assert worst.index == (0, 0) and worst.share == pytest.approx(0.8)
    outputs["cos_sin"][1, 3] = 0.001
    worst = worst_of(ops.ROPE_KV_WRITE, arg, problem, outputs)
    assert worst.index == (1, 3) and worst.share == np.inf


# ---- What is remembered, found and drawn ----------------------------------------------------------------------------


def test_rates_are_measured_once_a_device(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CUTAWAY_CACHE", str(tmp_path))
    measured = iter(Rates(float(n), 2.0 * n) for n in range(1, 9))
    monkeypatch.setattr(rates, "measure", lambda device: next(measured))
    one: Any = SimpleNamespace(name="one", driver_version=13000, kind="cpu")
    other: Any = SimpleNamespace(name="one", driver_version=13010, kind="cpu")
    assert rates.known(one) == rates.known(one) == Rates(1.0, 2.0)
    assert rates.known(other) == Rates(2.0, 4.0) and rates.known(one) == Rates(1.0, 2.0)
    assert rates.known(one, again=True) == rates.known(one) == Rates(3.0, 6.0)
    for broken in ("{", "[]", '{"read_bytes": 0, "flops": 1}', '{"read_bytes": NaN, "flops": 1}'):
        for file in (tmp_path / "rates").iterdir():
            file.write_text(broken)
        again = rates.known(one)
        assert rates.known(one) == again and again.flops > 6.0


def test_the_ceiling_is_the_fastest_of_the_products_that_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here one with a long inner dimension, and not the largest."""
    rate = {(512, 2048): 9e12}
    tried = []

    def seconds(device: Any, blas: Any, side: int, inner: int) -> float:
        tried.append((side, inner))
        return 2 * side**2 * inner / rate.get((side, inner), 1e12)

    monkeypatch.setattr(rates, "_product_seconds", seconds)
    monkeypatch.setattr("bindings.cublas.Blas", lambda *_: SimpleNamespace(close=lambda: None))
    device: Any = SimpleNamespace(stream=None)
    assert rates.product_rate(device) == pytest.approx(9e12)
    assert tried[-1] == (4096, 4096)  # which takes long enough: the one before took 17 ms
    rate.clear()
    monkeypatch.setattr(rates, "LONG_ENOUGH", 1e9)
    assert rates.product_rate(device) == pytest.approx(1e12) and max(tried) == (8192, 8192)


def test_a_program_that_is_missing_is_told_with_where_it_was_looked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "toolkit"))
    monkeypatch.setattr("sys.path", [])
    with pytest.raises(Exception, match=f"{tmp_path}/toolkit.*pip install nvidia-cuda-sanitizer-api"):
        nvidia_programs.find_program("compute-sanitizer")
    program = tmp_path / "toolkit" / "bin" / "compute-sanitizer"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    assert nvidia_programs.find_program("compute-sanitizer") == program


def test_compute_sanitizer_leaves_api_errors_to_the_door() -> None:
    words = " ".join(sanitize.options("racecheck"))
    assert "--tool racecheck --report-api-errors no --error-exitcode 97" in words


@pytest.mark.parametrize(("base", "named"), [("no-such-revision", "neither a folder nor"), ("-h", "expected a git")])
def test_a_base_that_is_nothing_is_told(base: str, named: str) -> None:
    with pytest.raises(UsageError, match=named), _sources(base, ops.RMSNORM):
        pass


def test_a_base_folder_must_have_the_kernel(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"it has no cuda_src/rmsnorm\.cu"), _sources(str(tmp_path), ops.RMSNORM):
        pass
    with _sources(str(REPOSITORY), ops.RMSNORM) as root:
        assert root == REPOSITORY / "cuda_src"


def small_chart() -> Chart:
    def shown(value: float) -> str:
        return f"{value:g}"

    x, y = Axis("H", 1.0, 16.0, True, shown), Axis("share", 0.0, 100.0, False, shown)
    series = [Series("first", [(1.0, 0.0), (16.0, 100.0)], True), Series("second", [(16.0, 100.0), (4.0, 0.0)], False)]
    return Chart("A & B", x, y, series, [(1.0, 50.0), (16.0, 50.0)])


def test_a_chart_in_a_terminal() -> None:
    lines = chart.text(small_chart(), columns=17, rows=5).splitlines()
    frame = [line.split("┤")[1] for line in lines if "┤" in line]
    assert frame[0].endswith("*") and frame[0].count("·") == 2  # two series at one place; a line up to it
    assert frame[4][0] == "a" and frame[4][8] == "b"
    assert "-" in frame[2] and lines[-3].split() == ["1", "2", "4", "8", "16", "H"]
    assert lines[-1].split() == ["a", "first", "b", "second"]


def test_a_chart_as_svg() -> None:
    picture = ElementTree.fromstring(draw(small_chart()))
    named = [node.text for node in picture.iter() if node.tag.endswith("text")]
    assert "A & B" in named and {"first", "second", "H", "share", "16", "100"} <= set(named)
    assert len([node for node in picture.iter() if node.tag.endswith("circle")]) == 4


def test_png_needs_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    require_writable(None)
    require_writable(Path("x.svg"))
    with pytest.raises(UsageError, match=r'pip install -e "\.\[plot\]"'):
        require_writable(Path("x.png"))
