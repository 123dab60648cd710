"""The real command in a process of its own: what it prints, and how it ends when something is wrong."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from engine.model_files import default_model
from tests.tool_runs import assert_one_line, run, start


@pytest.fixture(scope="session")
def model() -> Path:
    """The default model's file; fetched by the first test run of a machine."""
    return default_model()


def test_answers_and_ends_with_figures(repository: Path, model: Path) -> None:
    result = run(repository, "--raw", "--max-tokens", "8", "The capital of France is")
    assert result.returncode == 0, result.stderr
    assert "Paris" in result.stdout
    figures = result.stderr.splitlines()[-1]
    assert ": 5 prompt tokens, 8 new tokens, first token after " in figures
    assert figures.endswith(" tokens/s")


def test_json_and_trace(repository: Path, model: Path, tmp_path: Path) -> None:
    trace = tmp_path / "calls.jsonl"
    options = ("--json", "--quiet", "--max-tokens", "4", "--trace", trace)
    result = run(repository, *options, "-", text="Name a colour.\n")
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""

    (output,) = json.loads(result.stdout)["outputs"]
    assert output["prompt"] == "Name a colour."
    assert output["text"] and output["metrics"]["new_tokens"] == len(output["token_ids"]) <= 4

    events = [json.loads(line) for line in trace.read_text().splitlines()]
    calls = [event for event in events if event["kind"] == "call"]
    assert {"cuMemAlloc", "cuMemcpyHtoDAsync", "cublasGemmEx"} <= {call["call"] for call in calls}
    assert any("layer 0" in call["label"] and call.get("op") == "rmsnorm" for call in calls)
    assert list(tmp_path.iterdir()) == [trace]


def test_batch_prints_each_answer_under_its_prompt(repository: Path, model: Path) -> None:
    prompts = ["The capital of France is", "The capital of Italy is"]
    result = run(repository, "--raw", "--quiet", "--max-tokens", "2", *prompts)
    assert result.returncode == 0, result.stderr
    france, italy = sorted(part.split("\n")[:2] for part in result.stdout.split("=== ")[1:])
    assert france[0] == "1. The capital of France is" and "Paris" in france[1]
    assert italy[0] == "2. The capital of Italy is" and "Rome" in italy[1]


def test_interrupt_while_it_answers(repository: Path, model: Path, tmp_path: Path) -> None:
    trace = tmp_path / "calls.jsonl"
    options = ("--raw", "--max-tokens", "4000", "--trace", str(trace), "Once upon a time")
    process = start(repository, *options)
    assert process.stdout is not None
    assert process.stdout.read(1)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert stderr.decode().endswith("cutaway generate: interrupted\n")
    assert b"Traceback" not in stderr
    assert all(json.loads(line) for line in trace.read_text().splitlines())


def test_interrupt_while_it_compiles(repository: Path, model: Path, tmp_path: Path) -> None:
    """Nothing half-written stays: what was compiled by then is kept whole, and the next run can use the cache."""
    cache = tmp_path / "cache"
    options = ("--raw", "--max-tokens", "1", "--model", str(model), "Hello")
    process = start(repository, *options, CUTAWAY_CACHE=str(cache))
    assert process.stderr is not None
    while b"compile kernels" not in (line := process.stderr.readline()):
        assert line, "the run ended before it compiled anything"
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert stdout == b"" and stderr.decode().endswith("cutaway generate: interrupted\n")
    assert b"Traceback" not in stderr
    assert not list(cache.rglob(".part-*"))


def test_reader_that_goes_away(repository: Path, model: Path) -> None:
    process = start(repository, "--raw", "--quiet", "--max-tokens", "4000", "1\n2\n3\n")
    assert process.stdout is not None and process.stderr is not None
    assert process.stdout.readline()
    process.stdout.close()
    stderr = process.stderr.read()
    assert process.wait(timeout=60) == 141
    assert stderr == b""


def test_missing_model(repository: Path) -> None:
    result = run(repository, "--quiet", "--model", "/no/such/model", "Hello")
    assert_one_line(result, 1, "/no/such/model", ".gguf")


def test_folder_without_a_model(repository: Path, tmp_path: Path) -> None:
    result = run(repository, "--quiet", "--model", tmp_path, "Hello")
    assert_one_line(result, 1, str(tmp_path), "config.json")


@pytest.mark.parametrize("nbytes", [0, 100, 1_000_000, 50_000_000])
def test_truncated_model(repository: Path, model: Path, tmp_path: Path, nbytes: int) -> None:
    cut = tmp_path / "cut.gguf"
    with model.open("rb") as whole:
        cut.write_bytes(whole.read(nbytes))
    assert_one_line(run(repository, "--quiet", "--model", cut, "Hello"), 1, str(cut))


def test_prompt_longer_than_the_context(repository: Path, model: Path) -> None:
    result = run(repository, "--quiet", "--raw", "--max-model-len", "16", "one two three " * 16)
    assert_one_line(result, 1, "the prompt has ", "max_model_len")


def test_context_longer_than_the_model_has(repository: Path, model: Path) -> None:
    assert_one_line(run(repository, "--quiet", "--max-model-len", "1000000", "Hello"), 1, "max_model_len", "1000000")


def test_wrong_option(repository: Path) -> None:
    assert_one_line(run(repository, "--max-tokens", "0", "Hello"), 2, "max_tokens must be a whole number, at least 1")


@pytest.mark.cpu_device_only
def test_compiler_that_is_not_there(repository: Path, model: Path, tmp_path: Path) -> None:
    """CXX names a program that does not exist: that is told, and no other compiler is taken in its place."""
    compiler = str(tmp_path / "no-such-c++")
    result = run(repository, "--quiet", "--model", model, "Hello", CXX=compiler, CUTAWAY_CACHE=str(tmp_path / "cache"))
    assert_one_line(result, 1, compiler)


@pytest.mark.cpu_device_only
def test_no_compiler_at_all(repository: Path, model: Path, tmp_path: Path) -> None:
    empty = tmp_path / "bin"
    empty.mkdir()
    environment = {"PATH": str(empty), "CXX": "", "CUTAWAY_CACHE": str(tmp_path / "cache")}
    result = run(repository, "--quiet", "--model", model, "Hello", **environment)
    assert_one_line(result, 1, "compiler", "pip install ziglang")


def test_gpu_that_is_not_there(repository: Path) -> None:
    result = run(repository, "--quiet", "--device", "cuda", "Hello", CUDA_VISIBLE_DEVICES="")
    assert_one_line(result, 1, "--device cuda: ", "--device cpu")


def test_no_gpu_is_told_in_one_line(repository: Path) -> None:
    """With `auto` the CPU device takes over, and says so before anything slow begins."""
    result = run(
        repository, "--device", "auto", "--model", "/no/such/model", "Hello", CUTAWAY_DEVICE="", CUDA_VISIBLE_DEVICES=""
    )
    told, error = result.stderr.splitlines()
    assert told.endswith(": running on the CPU device") and told.count("NVIDIA driver") == 1
    assert error.startswith("cutaway generate: error: no model at /no/such/model")
