"""Out of device memory: what was asked and for what, what is free, what to lower; and nothing is left allocated."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from bindings.cpu.memory import heap, live_allocations
from bindings.device import Device
from bindings.memory import OutOfMemory, memory_map
from engine import LLM, SamplingParams
from engine.errors import ModelError
from engine.random_model import write_random_model
from tests.tool_runs import assert_one_line, run

pytestmark = pytest.mark.cpu_device_only

KV_BYTES = 1 << 20
SLACK = 10_000  # less than what comes next takes, at each stage
LimitTo = Callable[[int], None]


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "toy"
    write_random_model("toy", folder)
    return folder


@pytest.fixture
def limit_to(monkeypatch: pytest.MonkeyPatch, device: Device) -> LimitTo:
    """Leaves the device this many bytes beside what other tests hold."""
    return lambda nbytes: monkeypatch.setenv("CUTAWAY_CPU_MEMORY", str(heap.device_bytes + nbytes))


@pytest.fixture(scope="module")
def weight_bytes(toy: Path, device: Device) -> int:
    before = {address for address, _, _ in memory_map.live()}
    with LLM(model=str(toy), device="cpu"):
        made = [(nbytes, name) for address, nbytes, name in memory_map.live() if address not in before]
    apart = ("kv_pages", "activations.", "step", "sampled", "cublas.", "rope.")
    return sum(nbytes for nbytes, name in made if not name.startswith(apart))


def test_each_stage_says_what_to_lower_and_leaves_nothing(toy: Path, limit_to: LimitTo, weight_bytes: int) -> None:
    stages = {
        "embed": (SLACK, "the weights are .* MB in all: take a smaller model"),
        "kv_pages": (weight_bytes + SLACK, "lower max_model_len .*kv_cache_bytes or max_num_seqs"),
        "activations.": (weight_bytes + KV_BYTES + SLACK, "lower max_num_seqs, max_model_len"),
    }
    before = live_allocations(), memory_map.live()
    for buffer, (room, remedy) in stages.items():
        limit_to(room)
        with pytest.raises(
            OutOfMemory, match=f"^out of device memory: {buffer}.* needs .* are free; .*{remedy}"
        ) as caught:
            LLM(model=str(toy), device="cpu", kv_cache_bytes=KV_BYTES)
        error = caught.value
        assert error.buffer.startswith(buffer) and error.free < error.nbytes and "\n" not in str(error)
        assert (live_allocations(), memory_map.live()) == before


def test_the_next_try_with_less_works(
    toy: Path, limit_to: LimitTo, monkeypatch: pytest.MonkeyPatch, weight_bytes: int
) -> None:
    before = live_allocations(), memory_map.live()
    limit_to(weight_bytes + SLACK)
    with pytest.raises(OutOfMemory):
        LLM(model=str(toy), device="cpu", kv_cache_bytes=KV_BYTES)
    with pytest.raises(ModelError, match="kv_cache_bytes is 16384; 512 tokens need 524288: give that much"):
        LLM(model=str(toy), device="cpu", max_model_len=512, kv_cache_bytes=1 << 14)
    monkeypatch.delenv("CUTAWAY_CPU_MEMORY")
    with LLM(model=str(toy), device="cpu", max_model_len=512, kv_cache_bytes=524288) as llm:
        (output,) = llm.generate([[1, 2, 3]], SamplingParams(temperature=0, max_tokens=4, ignore_eos=True))
    assert len(output.outputs[0].token_ids) == 4
    assert (live_allocations(), memory_map.live()) == before


def test_a_length_that_is_asked_for_gets_its_room(toy: Path, device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without kv_cache_bytes the default share grows to what one sequence of max_model_len takes."""
    monkeypatch.setattr("engine.engine_config.CPU_KV_BYTES", 1 << 14)
    with LLM(model=str(toy), device="cpu", max_num_seqs=1) as short, LLM(model=str(toy), max_model_len=512) as long:
        assert short.engine_config.max_model_len == 16
        assert long.engine_config.max_model_len == 512


def test_the_command_says_it_in_one_line(repository: Path, toy: Path) -> None:
    result = run(repository, "--quiet", "--device", "cpu", "--model", toy, "Hello", CUTAWAY_CPU_MEMORY="20000")
    assert_one_line(result, 1, "out of device memory: embed needs", "take a smaller model")
