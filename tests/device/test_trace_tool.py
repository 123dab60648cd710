"""tools.trace around a real run of tools.generate on a toy model: what it shows agrees with what happened."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from bindings.device import Device
from engine.random_model import write_random_model
from tests.trace_events import feed
from tests.traced_runs import crowded_toy
from tools import trace
from tools.trace.explanations import CALLS, OPS
from tools.trace.kv_pages import PagesView
from tools.trace.recording import Recording
from tools.trace.terminal import Screen

PROMPT = "a cat and a dog went for a walk in the"  # 38 tokens, a byte each: two full pages, and a part of a third
NEW_TOKENS = 6


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "toy"
    write_random_model("toy", folder)
    return folder


@pytest.fixture(scope="module")
def generate(toy: Path, device: Device) -> list[str]:
    """The tool that is watched, with all but its prompts."""
    options = ["--device", device.kind, "--raw", "--quiet", "--ignore-eos", "--max-tokens", str(NEW_TOKENS)]
    return ["generate", "--model", str(toy), *options]


@pytest.fixture(scope="module")
def run(generate: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the files of one run."""
    folder = tmp_path_factory.mktemp("run")
    files = ["--jsonl", str(folder / "calls.jsonl"), "--perfetto", str(folder / "trace.json"), "--summary-only"]
    assert trace.main([*files, *generate, PROMPT]) == 0
    return folder


@pytest.fixture(autouse=True)
def no_width(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is printed into these tests is as wide as it likes."""
    monkeypatch.delenv("COLUMNS", raising=False)


def shown(capsys: pytest.CaptureFixture[str], *argv: str | Path) -> str:
    """What a view prints."""
    capsys.readouterr()
    assert trace.main([str(word) for word in argv]) == 0
    return capsys.readouterr().out


def figures(run: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    return json.loads(shown(capsys, "--open", run / "calls.jsonl", "--json"))


def test_every_call_and_kernel_of_a_run_is_explained(run: Path) -> None:
    calls = list(Recording.read(run / "calls.jsonl").calls)
    assert {call["call"] for call in calls} <= CALLS.keys()
    assert {call["op"] for call in calls if "op" in call} - {"gemm"} <= OPS.keys()


def test_the_summary_counts_what_the_recording_has(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recording, found = Recording.read(run / "calls.jsonl"), figures(run, capsys)
    counted = Counter(call["call"] for call in recording.calls)
    assert {row["call"]: row["calls"] for row in found["calls"]} == counted
    timed = sum(len(call.get("activities", ())) for call in recording.calls)
    assert timed > 0 and sum(row["runs"] for row in found["kernels"]) <= timed  # cuBLAS may take several for a product
    by_kind = {row["kind"]: row for row in found["steps"]}
    assert (by_kind["prefill"]["steps"], by_kind["decode"]["steps"]) == (1, NEW_TOKENS - 1)


def test_a_decode_step_has_the_same_kernels_launched_or_replayed(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The first decode step launches each kernel, later ones replay a graph: every layer's ten, and six around them."""
    (decode,) = (row for row in figures(run, capsys)["steps"] if row["kind"] == "decode")
    runs = {row["name"]: row["runs_per_step"] for row in decode["kernels"]}
    assert runs["decode_attention"] == runs["silu_mul"] == runs["gemm layers.*.mlp.down"] == 2
    assert runs["argmax"] == runs["gemm lm_head"] == runs["feed_tokens"] == 1 and runs["add_rmsnorm"] == 4
    assert decode["kernels_per_step"]["least"] >= 25


def test_memory_has_owners_and_nothing_is_left(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    memory = figures(run, capsys)["memory"]
    owned = memory["high_water"]
    assert all(owned[name] > 0 for name in ("weights", "KV pages", "activations", "workspace", "step buffers"))
    assert "other" not in owned and set(memory["now"].values()) == {0}


def test_the_table_shows_or_folds_every_call(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recording = Recording.read(run / "calls.jsonl")
    table = shown(capsys, "--open", run / "calls.jsonl", "--no-fold").split("Summary of everything")[0]
    numbers = [int(line.split()[0]) for line in table.splitlines() if line[:6].strip().isdecimal()]
    assert numbers == [call["n"] for call in recording.calls]
    folded = shown(capsys, "--open", run / "calls.jsonl").split("Summary of everything")[0]
    assert "cuMemAlloc" in folded and " more cuMemAlloc: " in folded and len(folded) < len(table)


def test_a_product_of_layer_0_is_found_and_explained(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--calls", "cublasGemmEx", "--layer", "0", "--step", "1", "--explain")
    table = shown(capsys, "--open", run / "calls.jsonl", *options).split("Summary of everything")[0]
    assert table.count("  cublasGemmEx ") == 4 and "Why the operands are swapped" in table
    assert "= activations.normed:bf16[38, 128] @ layers.0.attention.qkv:bf16[640, 128]^T" in table


def test_the_perfetto_file_has_each_activity_once(run: Path) -> None:
    recording = Recording.read(run / "calls.jsonl")
    records = json.loads((run / "trace.json").read_text())["traceEvents"]
    slices = Counter(record["pid"] for record in records if record["ph"] == "X")
    assert slices[2] == sum(len(call.get("activities", ())) for call in recording.calls)
    assert {record["name"] for record in records if record["ph"] == "C"} == {"memory by owner", "KV pages", "sequences"}


def test_pages_tell_of_a_shared_prefix(generate: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, "--pages", *generate, f"{PROMPT} park", f"{PROMPT} rain")
    words = " ".join(text.split())
    assert "request 1 has the block table [0 1 3]; it shares pages 0 1 with request 0, so its first 32 tokens" in words
    assert any(line.split() == ["0", "##01"] for line in text.splitlines())


def test_cells_agree_with_the_pool_while_pages_are_shared_copied_and_taken_back(device: Device) -> None:
    recording, stream = crowded_toy(device.kind), io.StringIO()
    feed(PagesView(Screen(stream, "never"), fold=False), list(recording.steps), recording.header)
    text = stream.getvalue()
    for words in ("shares pages 0 1 with request 0", "copy-on-write: page", "is preempted", "has ended"):
        assert words in text
    shown = [match[1] for match in re.finditer(r"^ +0  (\S+)$", text, re.MULTILINE)]
    for cells, step in zip(shown, recording.steps, strict=True):
        unused = step["num_pages"] - len(cells)
        assert cells.count("c") == len(step["cached"])
        assert cells.count("c") + cells.count(".") + unused == step["free"]


def test_a_reader_that_goes_away_ends_the_run(generate: list[str], repository: Path) -> None:
    command = [sys.executable, "-m", "tools.trace", *generate, PROMPT]
    with subprocess.Popen(
        command, cwd=repository, env=os.environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        errors = process.stderr.read()
    assert (process.returncode, errors) == (141, "")
