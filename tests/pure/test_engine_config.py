"""How large an engine is: limits held against each other, the model and the memory; what does not fit is refused."""

from __future__ import annotations

from typing import Any

import pytest

from engine.config import ModelConfig
from engine.engine_config import CPU_KV_BYTES, EngineConfig, Limits, kv_bytes_per_token, room_advice, settle
from engine.errors import ModelError
from tests.tiny_model import read_config

GB = 10**9
ACTIVATIONS = GB
PAGE = 16 * 2 * 2 * 2 * 64 * 2  # tokens, keys and values, layers, heads, values of a head, bytes: 16384


class Memory:
    """A device with `free` of `total` bytes."""

    def __init__(self, kind: str = "cuda", free: int = 70 * GB, total: int = 80 * GB) -> None:
        self.kind, self.memory_info = kind, lambda: (free, total)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> ModelConfig:
    """A model of 256 positions."""
    return read_config(tmp_path_factory.mktemp("model"))


def settled(config: ModelConfig, device: Memory | None = None, **limits: Any) -> EngineConfig:
    return settle(Limits(**limits), config, device or Memory(), ACTIVATIONS)  # type: ignore[arg-type]


def test_bytes_of_a_token(config: ModelConfig) -> None:
    assert 16 * kv_bytes_per_token(config) == PAGE


@pytest.mark.parametrize(("share", "pool"), [(0.5, 29 * GB), (0.25, 9 * GB), (None, 61 * GB)])
def test_a_share_of_the_memory_leaves_what_is_not_taken(config: ModelConfig, share: float | None, pool: int) -> None:
    """10 GB are taken already, 1 GB will be by activations. Without a share: 0.9 of all."""
    found = settled(config, gpu_memory_utilization=share, max_num_seqs=10**6, max_num_batched_tokens=10**6)
    assert found.num_pages == pool // PAGE


def test_the_cpu_device_takes_little_unless_a_share_is_given(config: ModelConfig) -> None:
    seqs: dict[str, Any] = {"max_num_seqs": 10**6, "max_num_batched_tokens": 10**6}
    assert settled(config, Memory("cpu"), **seqs).num_pages == CPU_KV_BYTES // PAGE
    assert settled(config, Memory("cpu", free=100 * PAGE), **seqs).num_pages == 50, "half of what is free"
    assert settled(config, Memory("cpu"), gpu_memory_utilization=0.25, **seqs).num_pages == 9 * GB // PAGE


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({"max_num_seqs": 3}, EngineConfig(256, 3, 768, 48)),  # no more pages than they could hold
        ({"max_num_seqs": 3, "max_model_len": 100}, EngineConfig(100, 3, 300, 21)),
        ({"max_model_len": 256, "kv_cache_bytes": 20 * PAGE}, EngineConfig(256, 256, 2048, 20)),
        ({"kv_cache_bytes": 5 * PAGE + 1}, EngineConfig(80, 256, 2048, 5)),  # nobody asks for more
        ({"max_num_batched_tokens": 300, "max_num_seqs": 300}, EngineConfig(256, 300, 300, 4800)),
    ],
)
def test_limits_follow_each_other(config: ModelConfig, limits: dict[str, int], expected: EngineConfig) -> None:
    assert settled(config, **limits) == expected


def test_a_length_that_is_asked_for_gets_its_room_where_nobody_says_how_large_the_pool_is(config: ModelConfig) -> None:
    found = settled(config, Memory("cpu", free=2 * PAGE), max_model_len=256, max_num_seqs=1)
    assert (found.max_model_len, found.num_pages) == (256, 16)


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"max_model_len": 257}, "max_model_len must be between 1 and 256 for this model, not 257"),
        ({"max_model_len": 0}, "max_model_len must be between 1 and 256 for this model, not 0"),
        ({"max_num_seqs": 0}, "max_num_seqs must be at least 1, not 0"),
        (
            {"max_num_batched_tokens": 9, "max_num_seqs": 10},
            r"max_num_batched_tokens must be at least 10 \(max_num_seqs\): each running sequence needs one token a "
            "step; it is 9",
        ),
        ({"gpu_memory_utilization": 0.0}, "gpu_memory_utilization must be above 0 and at most 1, not 0.0"),
        ({"gpu_memory_utilization": 1.01}, "gpu_memory_utilization must be above 0 and at most 1, not 1.01"),
        (
            {"gpu_memory_utilization": 0.5, "kv_cache_bytes": GB},
            "give gpu_memory_utilization or kv_cache_bytes, not both: each says how large the pool is",
        ),
        (
            {"gpu_memory_utilization": 0.1},
            "gpu_memory_utilization is 0.1: 8.00 of 80.00 GB, and 11.00 GB are taken by weights, activations and other "
            "programs; raise it, or take a smaller model",
        ),
        (
            {"kv_cache_bytes": 7 * PAGE, "max_model_len": 113},
            f"kv_cache_bytes is {7 * PAGE}; 113 tokens need {8 * PAGE}: give that much, or lower max_model_len",
        ),
        ({"kv_cache_bytes": 1}, f"kv_cache_bytes is 1; 1 tokens need {PAGE}: give that much, or lower max_model_len"),
    ],
)
def test_what_cannot_be_is_refused_with_the_figures(config: ModelConfig, limits: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=f"^{message}$"):
        settled(config, **limits)


def test_a_share_too_small_for_one_sequence_is_refused_with_one_that_suffices(config: ModelConfig) -> None:
    """It is the user's word, so the pool does not grow beyond it."""
    small = Memory(free=ACTIVATIONS + 10 * PAGE, total=ACTIVATIONS + 20 * PAGE)
    share = (ACTIVATIONS + 15 * PAGE) / (ACTIVATIONS + 20 * PAGE)  # 10 pages' worth are taken already: 5 are left
    with pytest.raises(ModelError, match=r"leaves \d+ bytes for keys and values; 112 tokens need 114688: give 1.0,"):
        settled(config, small, gpu_memory_utilization=share, max_model_len=112)
    assert settled(config, small, gpu_memory_utilization=1.0, max_model_len=112).num_pages == 10
    with pytest.raises(ModelError, match=r"176 tokens need 180224: take a smaller model, or lower max_model_len$"):
        settled(config, small, gpu_memory_utilization=1.0, max_model_len=176)


@pytest.mark.parametrize("tokens", [100, 255])
def test_the_advice_for_a_prompt_that_is_too_long_suffices(config: ModelConfig, tokens: int) -> None:
    pages = -(-(tokens + 1) // 16)
    expected = f"give max_model_len={tokens + 1} or more, and kv_cache_bytes, if you set it, {pages * PAGE} or more"
    assert room_advice(tokens, config) == expected
    assert settled(config, max_model_len=tokens + 1, kv_cache_bytes=pages * PAGE).max_model_len == tokens + 1


def test_a_prompt_longer_than_the_model_reads_has_to_be_shorter(config: ModelConfig) -> None:
    assert room_advice(256, config) == "this model reads 256 tokens at most, with the answer: shorten it"
