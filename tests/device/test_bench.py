"""Each benchmark on a toy model: it runs, and its figures agree with each other. No time is held against another's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bindings.device import Device
from tools import bench, cli
from tools.bench import rates

Figures = dict[str, Any]
Bench = Callable[..., Figures]

WORKLOAD = ["--num-prompts", "6", "--input-len", "3-20", "--output-len", "2-9", "--max-num-seqs", "4"]


@pytest.fixture
def figures(device: Device, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Bench:
    """Runs a benchmark in this process. The device's rates are measured with little: the figures are no matter here."""
    monkeypatch.setattr(rates, "COPY_BYTES", 1 << 16)
    monkeypatch.setattr(rates, "ROW", 1 << 10)
    monkeypatch.setattr(rates, "LARGEST_PRODUCT", 256)

    def run(*typed: str) -> Figures:
        argv = [*typed, "--random-weights", "toy", "--device", device.kind, "--json", "--quiet"]
        code, (out, err) = cli.run(bench.make_parser(), bench.body, argv), capsys.readouterr()
        assert (code, err) == (0, ""), err
        return json.loads(out)

    return run


def assert_consistent(found: Figures, seconds: float) -> None:
    """What holds of every benchmark: the floor and its share, device time, tokens a second."""
    assert found["fraction_of_floor"] == pytest.approx(found["floor_s"] / seconds)
    assert max(found["floor_bytes_s"], found["floor_flops_s"]) <= found["floor_s"] * (1 + 1e-9)
    assert found["floor_s"] <= found["floor_bytes_s"] + found["floor_flops_s"]
    assert found["read_GB_per_s"] > 0 and found["product_TFLOP_per_s"] > 0
    assert 0 <= found["gpu_idle_share"] < 1 and 0 <= found["gpu_idle_share_of_decode_steps"] < 1
    assert found["steps"] > 0 and found["median_step_ms"] > 0 and found["host_us_per_step"] > 0
    if "output_tokens_per_second" in found:
        assert found["output_tokens_per_second"] == pytest.approx(found["output_tokens"] / seconds)
        both = found["prompt_tokens"] + found["output_tokens"]
        assert found["total_tokens_per_second"] == pytest.approx(both / seconds)


@pytest.mark.parametrize("batching", ["continuous", "static"])
def test_throughput(figures: Bench, batching: str) -> None:
    found = figures("throughput", *WORKLOAD, "--batching", batching)
    jobs = bench.throughput.random_jobs(6, (3, 20), (2, 9), 0, 256)
    assert found["prompt_tokens"] == sum(len(job.prompt) for job in jobs)
    assert found["output_tokens"] == sum(job.output_len for job in jobs)
    assert found["batching"] == batching and found["num_prompts"] == 6
    assert_consistent(found, found["seconds"])


def test_static_batching_takes_more_steps(figures: Bench) -> None:
    more = ["--num-prompts", "12", "--output-len", "2-30"]
    steps = {
        way: figures("throughput", *WORKLOAD, *more, "--batching", way)["steps"] for way in ("continuous", "static")
    }
    assert steps["continuous"] < steps["static"]


def test_latency(figures: Bench) -> None:
    found = figures("latency", "--batch-size", "3", "--input-len", "5", "--output-len", "4", "--num-iters", "2")
    assert (found["prompt_tokens"], found["output_tokens"], found["steps"]) == (15, 12, 4)
    assert found["batch_p50_ms"] == pytest.approx(1e3 * found["seconds"])
    for name in ("batch", "first_token", "step"):
        assert 0 < found[f"{name}_p50_ms"] <= found[f"{name}_p95_ms"] <= found[f"{name}_p99_ms"]
    assert_consistent(found, found["seconds"])


def test_prefill(figures: Bench) -> None:
    found = figures("prefill", "--batch-size", "2", "--input-len", "24", "--num-iters", "2")
    assert (found["prompt_tokens"], found["output_tokens"], found["steps"]) == (48, 2, 1)
    assert found["tokens_per_second"] == pytest.approx(48 / found["seconds"])
    assert_consistent(found, found["seconds"])


def test_decode(figures: Bench) -> None:
    found = figures("decode", "--steps", "4", "--tokens", "8", "--batch", "2", "--eager", "--num-iters-warmup", "0")
    assert found["steps"] == 5
    assert found["time_over_floor"] == pytest.approx(1 / found["fraction_of_floor"])
    assert found["tokens_per_second"] == pytest.approx(2e3 / found["ms_per_step"])
    assert_consistent(found, found["ms_per_step"] / 1e3)


def test_serve_sim(figures: Bench) -> None:
    found = figures("serve-sim", *WORKLOAD, "--request-rate", "200", "--temperature", "0")
    jobs = bench.serve_sim.random_jobs(6, (3, 20), (2, 9), 0, 256)
    assert found["output_tokens"] == sum(job.output_len for job in jobs)
    for name in ("ttft", "itl"):
        assert 0 < found[f"{name}_p50_ms"] <= found[f"{name}_p95_ms"] <= found[f"{name}_p99_ms"]
    assert found["requests_per_second"] == pytest.approx(6 / found["seconds"])
    arrived = bench.serve_sim.poisson_arrivals(jobs, 200, 0)[-1].arrival
    assert arrived < found["seconds"] and found["busy_seconds"] < found["seconds"]
    # The floor is held against the time that the device was at work, the tokens against all of it.
    assert found["fraction_of_floor"] == pytest.approx(found["floor_s"] / found["busy_seconds"])
    assert found["output_tokens_per_second"] == pytest.approx(found["output_tokens"] / found["seconds"])


def test_load_and_door(figures: Bench) -> None:
    loaded = figures("load")
    assert loaded["GB_per_s"] == pytest.approx(loaded["bytes"] / loaded["seconds"] / 1e9)
    door = figures("door", "--steps", "4", "--tokens", "8")
    assert door["calls_per_step"] > 10 and door["eager_step_ms"] > 0
    assert door["door_ns_per_call"] >= 0  # a difference of two times: noise may take it to 0


def test_the_command_leaves_nothing_on_the_device_and_nothing_on_stderr(device: Device, repository: Path) -> None:
    command = [sys.executable, "-m", "tools.bench", "throughput", "--shape", "toy", *WORKLOAD]
    command += ["--device", device.kind, "--json", "--quiet"]
    environment = {**os.environ, "CUTAWAY_CPU_LEAKS": "report"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=repository, env=environment, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["num_prompts"] == 6


def test_an_unknown_shape_is_refused_by_name(device: Device, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["load", "--shape", "gpt-5", "--device", device.kind]
    assert cli.run(bench.make_parser(), bench.body, argv) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "gpt-5" in err and "llama-3.2-1b" in err
