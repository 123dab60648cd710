"""tools.microtest, run for real: what it says of right kernels, and that it finds wrong ones."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import pytest

from bindings import nvrtc
from bindings.device import Device
from engine import ops
from engine.spec import Op
from tests.source_tree import REPOSITORY
from tests.tool_runs import interruptible
from tools import microtest
from tools.bench import rates
from tools.bench.rates import Rates
from tools.microtest import compare, examine, ladder, paired, roofline, session, sweep, timing
from tools.microtest.catalogue import KERNELS, cases_for

KERNEL_FILES = REPOSITORY / "cuda_src"
BEYOND_REACH = Rates(read_bytes=1e18, flops=1e20)


@dataclass(frozen=True)
class Ran:
    """How a run of the tool ended."""

    code: int
    out: str
    err: str

    @property
    def data(self) -> dict[str, Any]:
        """What --json printed, after a run in which all was right."""
        assert (self.code, self.err) == (0, ""), self.err
        return json.loads(self.out)


Tool = Callable[..., Ran]


@pytest.fixture
def tool(device: Device, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Tool:
    """Runs the tool in this process: a ceiling that nothing comes near, few samples. No test compares times."""
    monkeypatch.setattr(rates, "known", lambda device, **_: BEYOND_REACH)
    monkeypatch.setattr(timing, "SAMPLES", dict.fromkeys(timing.SAMPLES, 2))
    monkeypatch.setattr(timing, "SAMPLE_SECONDS", dict.fromkeys(timing.SAMPLE_SECONDS, 1e-6))
    monkeypatch.setattr(paired, "PAIRS", dict.fromkeys(paired.PAIRS, 6))

    def run(*typed: str | Path) -> Ran:
        code = microtest.main([*map(str, typed), "--device", device.kind, "--quiet"])
        return Ran(code, *capsys.readouterr())

    return run


def changed(folder: Path, source: str, old: str, new: str) -> Path:
    """A copy of a kernel with one place of its text replaced."""
    text = (KERNEL_FILES / source).read_text()
    assert text.count(old) == 1, f"{source} has {text.count(old)} times: {old}"
    path = folder / f"my_{Path(source).name}"
    path.write_text(text.replace(old, new))
    return path


@pytest.mark.parametrize(
    ("typed", "named"),
    [
        (["rmsnrm"], "did you mean rmsnorm"),
        (["rmsnorm", "--shape", "Q=4"], "no symbol 'Q'; it has T, H"),
        (["rmsnorm", "--shape", "T"], "expected SYMBOL=SIZE"),
        (["rmsnorm", "--shape", ""], "expected SYMBOL=SIZE"),
        (["rmsnorm", "--shape", "T=1,T=2"], "says twice what T is"),
        (["rmsnorm", "--dtype", "f16"], "rmsnorm takes bf16"),
        (["argmax", "--dtype", "bf16"], "argmax takes f32"),
        (["rmsnorm", "--shape", "T=4", "--no-time"], "--no-time"),
        (["all", "--shape", "T=4"], "--shape is for one kernel"),
        (["--dtype", "bf16"], "--dtype is for one kernel"),
        (["--no-time"], "need a kernel"),
        (["all", "--watch"], "--watch is for one kernel"),
        (["--watch"], "--watch needs a kernel"),
        (["rmsnorm", "--watch", "--json"], "--json does not go with --watch"),
        (["rmsnorm", "--watch", "--ptx"], "not allowed with"),
        (["rmsnorm", "--plot", "x.svg"], "--plot does not go with"),
        (["rmsnorm", "--sweep", "H=8"], "expected SYMBOL=LOW..HIGH"),
        (["rmsnorm", "--sweep", "Q=8..16"], "error: rmsnorm has no symbol 'Q'"),
        (["rmsnorm", "--sweep", "H=8..16", "--shape", "H=8"], "both say what H is"),
        (["rmsnorm", "--sweep", "H=8..16", "--plot", "x.gif"], "ends in .svg or .png"),
        (["rmsnorm", "--sweep", "H=8..16", "--plot", "no/such/x.svg"], "there is no folder"),
        (["--ladder", "gemm"], "there are attention, rmsnorm, softmax"),
        (["rmsnorm", "--ladder", "rmsnorm"], "takes no kernel"),
        (["rmsnorm", "--schedules", "0"], "expected a number from 1 on"),
        (["gemm", "--schedules"], "a matrix product is cuBLAS's"),
        (["gemm", "--compare", "HEAD"], "a matrix product is cuBLAS's"),
        (["rmsnorm", "--sanitize", "nocheck"], "invalid choice"),
        (["rmsnorm", "--compare", "--quiet"], "expected one argument"),
        (["--file", "nothere.cu"], "No such file"),
        (["all", "--file", "x.cu"], "--file is one kernel"),
        (["decode_attention", "--shape", "NH=5,NKV=2"], "no multiple of NKV"),
    ],
)
def test_a_wrong_command_line_is_one_line(tool: Tool, typed: list[str], named: str) -> None:
    ran = tool(*typed)
    assert (ran.code, ran.out, ran.err.count("\n")) == (2, "", 1), ran.err
    assert ran.err.startswith("cutaway microtest: error: ") and named in ran.err


def test_every_kernel_is_tested_and_timed(tool: Tool, monkeypatch: pytest.MonkeyPatch) -> None:
    """One case of each: all of them run in test_kernels.py."""
    monkeypatch.setattr(examine, "cases_for", lambda op: cases_for(op)[:1])
    found = tool("all", "--json").data
    assert [kernel["name"] for kernel in found["kernels"]] == list(KERNELS)
    for kernel in found["kernels"]:
        assert kernel["passed"] and len(kernel["cases"]) == 1 and kernel["times"], kernel["name"]
        for one in kernel["times"]:
            assert one["seconds"] > 0 and 0 < one["fraction_of_ceiling"] < 1
            floor = max(one["bytes"] / BEYOND_REACH.read_bytes, one["flops"] / BEYOND_REACH.flops)
            assert one["floor_seconds"] == pytest.approx(floor)


def test_a_table_of_all_comes_last(tool: Tool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examine, "KERNELS", {name: KERNELS[name] for name in ("feed_tokens", "silu_mul")})
    ran = tool("all", "--no-time")
    assert ran.code == 0
    assert [line.split()[:2] for line in ran.out.splitlines()[-2:]] == [["feed_tokens", "5/5"], ["silu_mul", "8/8"]]


def test_one_kernel_for_a_person(tool: Tool, device: Device) -> None:
    ran = tool("silu_mul", "--shape", "T=3,I=256")
    assert (ran.code, ran.err) == (0, "")
    for word in ("right in 8 of 8 cases", "of its bound", "as asked", "T=3 I=256", "B/s", device.name):
        assert word in ran.out
    told = "do not apply" if device.kind == "cpu" else "registers, "
    assert told in ran.out


def test_a_product_is_a_kernel_like_the_others(tool: Tool) -> None:
    (kernel,) = tool("gemm", "--shape", "M=5,N=64,K=96", "--json").data["kernels"]
    (one,) = kernel["times"]
    assert kernel["passed"] and one["symbols"] == {"M": 5, "N": 64, "K": 96}
    assert (one["flops"], one["bytes"]) == (2 * 5 * 64 * 96, 2 * (5 * 96 + 64 * 96 + 5 * 64))


def test_a_figure_above_the_ceiling_is_an_error(tool: Tool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rates, "known", lambda device, **_: Rates(1.0, 1.0))
    ran = tool("feed_tokens")
    assert ran.code == 1 and "IMPOSSIBLE" in ran.out
    assert "so the measurement is wrong: " in ran.err and "--measure-rates" in ran.err


WRONG_STRIDE = ("silu_mul.cu", "token * 2 * width", "token * width")
WRONG_MASK = ("silu_mul.cu", "if (column >= width) return", "if (column > width) return")
NO_BARRIER = (
    "lab/rmsnorm/v2_shared_memory.cu",
    "partial[threadIdx.x + half];\n    __syncthreads();",
    "partial[threadIdx.x + half];",
)


def test_a_wrong_stride_is_found_with_the_block_and_thread_that_wrote_it(tool: Tool, tmp_path: Path) -> None:
    ran = tool("--file", changed(tmp_path, *WRONG_STRIDE), "--json")
    assert ran.code == 1 and "silu_mul is wrong in T3-I1536" in ran.err
    (kernel,) = json.loads(ran.out)["kernels"]
    cases = {case["name"]: case for case in kernel["cases"]}
    # The first row lies where it should.
    assert [name for name, case in cases.items() if case["passed"]] == ["T1-I8", "T1-I8192", "T1-I2056"]
    (worst,) = cases["T3-I1536"]["worst"]
    row, column = worst["index"]
    assert row > 0 and worst["share"] > 1 and not kernel["times"]
    owner = cases["T3-I1536"]["owner"]
    if owner is not None:  # told by the CPU device
        block, thread = divmod(column // 8, 256)
        assert (owner["block"], owner["thread"]) == ([block, row, 0], [thread, 0, 0])


@pytest.mark.cpu_device_only
def test_an_off_by_one_mask_is_found_with_block_thread_and_line(tool: Tool, tmp_path: Path) -> None:
    path = changed(tmp_path, *WRONG_MASK)
    ran = tool("silu_mul", "--file", path)
    line = 1 + path.read_text().split("load16(row + width + column)")[0].count("\n")
    assert ran.code == 1 and "silu_mul is wrong in T1-I8" in ran.err
    assert f"{path}:{line}, block (0, 0, 0), thread (1, 0, 0): read of 16 bytes" in ran.out


@pytest.mark.cpu_device_only
@pytest.mark.usefixtures("any_schedule")
@pytest.mark.parametrize("options", [[], ["--schedules", "1"]], ids=["plainly", "by the hunt"])
def test_a_missing_barrier_is_found_with_block_thread_and_line(tool: Tool, tmp_path: Path, options: list[str]) -> None:
    path = changed(tmp_path, *NO_BARRIER)
    ran = tool("rmsnorm_v2_shared_memory", "--file", path, *options)
    line = 1 + path.read_text().split("partial[threadIdx.x + half];")[0].count("\n")
    assert ran.code == 1 and "rmsnorm_v2_shared_memory is wrong in T1-H8" in ran.err
    assert f"race on shared memory in rmsnorm at {path}:{line}, block (0, 0, 0), thread (1, 0, 0)" in ran.out


def test_what_does_not_compile_is_one_line(tool: Tool, tmp_path: Path) -> None:
    ran = tool("--file", changed(tmp_path, "silu_mul.cu", "const int64_t token =", "const int64_t tokens ="))
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.count("\n") == 1 and "my_silu_mul.cu does not compile" in ran.err


def test_a_kernel_of_ones_own_is_timed_against_the_shipped_one(tool: Tool, tmp_path: Path) -> None:
    mine = changed(tmp_path, "silu_mul.cu", "1.0f + __expf(-x)", "__expf(-x) + 1.0f")
    (kernel,) = tool("--file", mine, "--shape", "T=2,I=64", "--json").data["kernels"]
    assert kernel["source"] == str(mine) and len(kernel["times"]) == len(kernel["shipped_times"]) == 1
    ran = tool("--file", mine, "--shape", "T=2,I=64")
    assert "its speed" in ran.out


@pytest.mark.cpu_device_only
@pytest.mark.usefixtures("any_schedule")
def test_a_right_kernel_passes_the_hunt(tool: Tool) -> None:
    found = tool("feed_tokens", "--schedules", "1", "--json").data
    assert found["schedules"] == ["ascending", "descending", "shuffled:1", "greedy:2"] and found["found"] == []


def test_a_ladder_tells_what_each_rung_bought(tool: Tool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examine, "cases_for", lambda op: cases_for(op)[:2])
    rungs = tool("--ladder", "softmax", "--shape", "T=4,N=64", "--json").data["rungs"]
    assert [rung["name"].split("_")[1] for rung in rungs] == ["v1", "v2", "v3", "v4"]
    times = [rung["seconds"] for rung in rungs]
    for place, rung in enumerate(rungs):
        assert rung["speedup_over_first"] == pytest.approx(times[0] / times[place])
        assert rung["speedup_over_rung_before"] == pytest.approx(times[max(place - 1, 0)] / times[place])
    assert "what is new" in tool("--ladder", "softmax", "--shape", "T=4,N=64").out


def test_every_ladder_climbs_to_a_kernel_that_is_timed(device: Device) -> None:
    for rungs in ladder.LADDERS.values():
        assert len({tuple(one.symbols) for op in rungs for one in examine.workloads(op, device.kind)}) == 1


def test_a_sweep_is_a_table_and_a_plot(tool: Tool, tmp_path: Path) -> None:
    drawn = tmp_path / "sweep.svg"
    ran = tool("silu_mul", "--sweep", "I=64..512", "--shape", "T=2", "--plot", drawn)
    assert (ran.code, ran.err) == (0, "")
    rows = [line.split()[0] for line in ran.out.splitlines()[-4:]]
    assert rows == ["64", "128", "256", "512"] and "with T=2" in ran.out and "┤" in ran.out
    circles = [node for node in ElementTree.fromstring(drawn.read_text()).iter() if node.tag.endswith("circle")]
    assert len(circles) == 4 and [found.name for found in tmp_path.iterdir()] == ["sweep.svg"]
    times = tool("silu_mul", "--sweep", "T=1..3+1", "--json").data["times"]
    assert [one["symbols"]["T"] for one in times] == [1, 2, 3]


def test_the_roofline_has_every_kernel_that_does_arithmetic(
    tool: Tool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = tmp_path / "roofline.svg"
    monkeypatch.setattr(roofline, "KERNELS", {name: KERNELS[name] for name in ("feed_tokens", "silu_mul", "gemm")})
    ran = tool("--roofline", "--plot", drawn)
    assert ran.code == 0 and "not drawn, as they do no arithmetic: feed_tokens" in ran.out
    named = [node.text for node in ElementTree.fromstring(drawn.read_text()).iter() if node.tag.endswith("text")]
    assert {"silu_mul", "gemm"} <= set(named) and "feed_tokens" not in named


def test_the_same_source_differs_from_itself_by_noise_alone(tool: Tool) -> None:
    found = tool("silu_mul", "--compare", KERNEL_FILES, "--shape", "T=4,I=256", "--json").data
    (one,) = found["times"]
    assert one["low"] <= one["change"] <= one["high"] and one["before"] > 0 and one["after"] > 0


def test_a_base_is_what_it_is_compiled_from(tool: Tool, tmp_path: Path) -> None:
    """Its own header is at fault here, which the working tree does not have."""
    base = tmp_path / "cuda_src"
    (base / "include").mkdir(parents=True)
    for name in ("common.cuh", "ptx.cuh", "ptx_before_sm80.cuh"):
        (base / "include" / name).write_bytes((KERNEL_FILES / "include" / name).read_bytes())
    (base / "silu_mul.cu").write_bytes((KERNEL_FILES / "silu_mul.cu").read_bytes())
    assert tool("silu_mul", "--compare", tmp_path, "--shape", "T=1,I=64").code == 0
    with (base / "include" / "common.cuh").open("a") as header:
        header.write("#error of the base\n")
    nvrtc.forget_texts()
    ran = tool("silu_mul", "--compare", tmp_path, "--shape", "T=1,I=64")
    assert ran.code == 1 and "the base's kernel can't be run" in ran.err and "of the base" in ran.err


@pytest.mark.cpu_device_only
def test_compute_sanitizer_is_for_a_gpu_and_has_no_trace(tool: Tool, tmp_path: Path) -> None:
    ran = tool("rmsnorm", "--sanitize")
    assert ran.code == 2 and "--schedules" in ran.err
    ran = tool("rmsnorm", "--sanitize", "--trace", tmp_path / "calls.jsonl")
    assert ran.code == 2 and "--trace does not go with --sanitize" in ran.err


@pytest.mark.needs_gpu
def test_the_hunt_is_for_the_cpu_device(tool: Tool) -> None:
    ran = tool("feed_tokens", "--schedules")
    assert ran.code == 2 and "--sanitize" in ran.err


@pytest.mark.needs_gpu
@pytest.mark.parametrize("name", ["rmsnorm", "prefill_attention", "decode_attention"])
def test_occupancy_is_what_the_driver_says(device: Device, name: str) -> None:
    from bindings.calls import driver
    from tools.microtest.resources import resources
    from tools.microtest.shapes import workloads

    op = ops.ALL[name]
    for workload in workloads(op, "cuda"):
        taken = resources(device, op, workload)
        assert taken is not None and taken.occupancy is not None
        kernel = op.kernel(device, workload.symbols)
        blocks = driver.cuOccupancyMaxActiveBlocksPerMultiprocessor(kernel.handle, taken.threads, taken.dynamic_smem)
        assert taken.occupancy.blocks == blocks


@pytest.mark.parametrize(
    ("typed", "named"),
    [
        (["gemm", "--ptx", "--arch", "sm_90a"], "a matrix product is cuBLAS's"),
        (["rmsnorm", "--ptx", "--arch", "sm_12"], "expected one of sm_75"),
        (["rmsnorm", "--sass", "--device", "cpu"], "leave --device out"),
    ],
)
def test_code_is_of_a_gpu(typed: list[str], named: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, (out, err) = microtest.main(typed), capsys.readouterr()
    assert (code, out, err.count("\n")) == (2, "", 1) and named in err


def test_ptx_needs_nvrtc_and_no_gpu() -> None:
    """In a process of its own: it drives NVRTC, whatever this one drives."""
    ran = started("rmsnorm", "--ptx", "--arch", "sm_90a")
    out, err = ran.communicate(timeout=120)
    if ran.returncode == 0:
        assert ".target sm_90a" in out and ".entry rmsnorm(" in out
    else:
        assert "nvrtc" in err.lower() and err.count("\n") == 1


def test_which_kernel_of_a_file_is_meant_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    """rmsnorm.cu has two: a fault in the other one would go unseen."""
    mine = KERNEL_FILES / "rmsnorm.cu"
    typed = ["--file", str(mine), "--no-time"]
    assert find_op(typed).name == "rmsnorm"
    assert capsys.readouterr().err.startswith(f"{mine}: tested as rmsnorm; name another to test it as that: add_rmsn")
    assert find_op([*typed, "--quiet"]).name == "rmsnorm"
    assert find_op(["add_rmsnorm", *typed]).name == "add_rmsnorm"
    assert capsys.readouterr().err == ""


def test_a_copy_of_a_rung_is_tested_as_that_rung(tool: Tool, tmp_path: Path) -> None:
    """Its tree needs a power of two threads, which the production kernel's launch does not have."""
    mine = changed(tmp_path, "lab/rmsnorm/v2_shared_memory.cu", "half = BLOCK_THREADS / 2", "half = BLOCK_THREADS >> 1")
    ran = tool("--file", mine, "--no-time")
    assert ran.code == 0 and ran.out.startswith("rmsnorm_v2_shared_memory: "), ran.out


def find_op(typed: list[str]) -> Op:
    return session.chosen(microtest.make_parser().parse_args(typed))


@pytest.mark.parametrize("mode", [["--sweep", "I=64..128"], ["--compare", KERNEL_FILES]], ids=["sweep", "compare"])
def test_what_is_wrong_leaves_stdout_to_json(tool: Tool, monkeypatch: pytest.MonkeyPatch, mode: list[Any]) -> None:
    wrong = SimpleNamespace(passed=False, verdicts=[], left_out=1, problems=["silu_mul is wrong"])
    for module in (sweep, compare):
        monkeypatch.setattr(module, "examine", lambda *_: wrong)
    ran = tool("silu_mul", *mode, "--json")
    assert (ran.code, ran.out) == (1, "") and ran.err.startswith("right in 0 of 1 cases")
    ran = tool("silu_mul", *mode)
    assert ran.out.startswith("right in 0 of 1 cases") and ran.err == "cutaway microtest: error: silu_mul is wrong\n"


def started(*typed: str | Path) -> subprocess.Popen[str]:
    """The tool in a process of its own."""
    command = [*interruptible("tools.microtest"), *map(str, typed)]
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, cwd=REPOSITORY, env=dict(os.environ), text=True, start_new_session=True, **pipes)


@pytest.fixture
def watched(device: Device, tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """The tool watching a copy of silu_mul.cu, and that copy."""
    path = tmp_path / "mine.cu"
    path.write_text((KERNEL_FILES / "silu_mul.cu").read_text())
    process = started("--file", path, "--watch", "--device", device.kind, "--quiet", "--shape", "T=2,I=64")
    yield process, path
    process.kill()
    process.communicate(timeout=60)


def read_until(process: subprocess.Popen[str], word: str) -> str:
    """What it prints, up to the line that has `word`."""
    assert process.stdout is not None
    said = ""
    while word not in said:
        line = process.stdout.readline()
        assert line, f"it ended before it said {word!r}: {said}{process.stderr.read() if process.stderr else ''}"
        said += line
    return said


def test_watch_tells_what_each_save_brings(watched: tuple[subprocess.Popen[str], Path]) -> None:
    process, path = watched
    right = path.read_text()
    assert "right in 8 of 8 cases" in read_until(process, " at as asked (T=2 I=64)")

    path.write_text(right.replace("return x /", "return y /"))
    said = read_until(process, "return y /")
    assert "does not compile" in said and "mine.cu" in said

    path.write_text(right.replace("token * 2 * width", "token * width"))
    assert "worst at index" in read_until(process, "WRONG")

    started_at = time.perf_counter()
    path.write_text(right.replace("1.0f + __expf(-x)", "__expf(-x) + 1.0f"))
    said = read_until(process, "; was ")
    assert "right in 8 of 8 cases" in said and time.perf_counter() - started_at < 60

    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "cutaway microtest: interrupted\n"), out
