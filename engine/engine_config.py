"""How large an engine is: its limits, settled against each other, the model and the memory."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from bindings.device import Device
from bindings.dtypes import BF16
from engine.config import ModelConfig
from engine.errors import ModelError

PAGE_SIZE = 16
MAX_NUM_BATCHED_TOKENS = 2048
MAX_NUM_SEQS = 256

# KV memory when nobody says: a laptop keeps room for itself, a GPU is there to be used.
CPU_KV_BYTES = 256 * 1024 * 1024
GPU_MEMORY_UTILIZATION = 0.9  # of all memory of the device; the rest is for the driver and for others


@dataclass(frozen=True)
class Limits:
    """What the user asks for; None leaves the choice to the engine.

    max_model_len: tokens of one sequence, prompt and answer. max_num_seqs: sequences that run at once.
    max_num_batched_tokens: tokens of one step, of all sequences together. Memory for keys and values: kv_cache_bytes,
    or what gpu_memory_utilization (the share of the device's memory that the engine may use in all) leaves for it.
    """

    max_model_len: int | None = None
    max_num_seqs: int = MAX_NUM_SEQS
    max_num_batched_tokens: int = MAX_NUM_BATCHED_TOKENS
    kv_cache_bytes: int | None = None
    gpu_memory_utilization: float | None = None


@dataclass(frozen=True)
class EngineConfig:
    """The limits as they were settled, and the KV pages that the memory holds."""

    max_model_len: int
    max_num_seqs: int
    max_num_batched_tokens: int
    num_pages: int
    page_size: int = PAGE_SIZE


def kv_bytes_per_token(config: ModelConfig) -> int:
    """Bytes of the keys and values of one token, all layers."""
    return 2 * config.num_layers * config.num_kv_heads * config.head_dim * BF16.itemsize


def settle(limits: Limits, config: ModelConfig, device: Device, activation_bytes: int) -> EngineConfig:
    """Hold the limits against each other and the memory that the weights left. Raises ModelError when they clash.

    activation_bytes: what the engine will take beside weights and pages.
    """
    _check(limits, config)
    page_bytes, longest = PAGE_SIZE * kv_bytes_per_token(config), limits.max_model_len or config.max_position_embeddings
    kv_bytes = limits.kv_cache_bytes
    if kv_bytes is None:
        kv_bytes = _kv_bytes(limits, device, activation_bytes)
    needed = _pages(limits.max_model_len or 1) * page_bytes
    if kv_bytes < needed:
        _check_room(limits, kv_bytes, needed, device.memory_info()[1])
        kv_bytes = needed  # a length that was asked for is room that was asked for
    num_pages = kv_bytes // page_bytes
    if limits.kv_cache_bytes is None and limits.gpu_memory_utilization is None:
        num_pages = min(num_pages, limits.max_num_seqs * _pages(longest))  # more would be for earlier prompts alone
    length = min(longest, num_pages * PAGE_SIZE)
    tokens = min(limits.max_num_batched_tokens, limits.max_num_seqs * length)
    return EngineConfig(length, limits.max_num_seqs, tokens, num_pages)


def room_advice(prompt_tokens: int, config: ModelConfig) -> str:
    """What to give so that a prompt of this length can run, with one token of an answer."""
    tokens, longest = prompt_tokens + 1, config.max_position_embeddings
    if tokens > longest:
        return f"this model reads {longest} tokens at most, with the answer: shorten it"
    nbytes = _pages(tokens) * PAGE_SIZE * kv_bytes_per_token(config)
    return f"give max_model_len={tokens} or more, and kv_cache_bytes, if you set it, {nbytes} or more"


def _check_room(limits: Limits, kv_bytes: int, needed: int, total: int) -> None:
    """Raise ModelError if the user said how large the pool is, and that is less than one sequence needs."""
    tokens, share = limits.max_model_len or 1, limits.gpu_memory_utilization
    if limits.kv_cache_bytes is not None:
        need = f"{tokens} tokens need {needed}"
        raise ModelError(f"kv_cache_bytes is {kv_bytes}; {need}: give that much, or lower max_model_len")
    if share is not None:
        enough = ceil(1000 * (share + (needed - kv_bytes) / total)) / 1000
        remedy = f"give {enough}, or lower" if enough <= 1 else "take a smaller model, or lower"
        left = f"leaves {kv_bytes} bytes for keys and values; {tokens} tokens need {needed}"
        raise ModelError(f"gpu_memory_utilization is {share}, which {left}: {remedy} max_model_len")


def _pages(tokens: int) -> int:
    return -(-tokens // PAGE_SIZE)


def _check(limits: Limits, config: ModelConfig) -> None:
    longest, seqs, tokens = config.max_position_embeddings, limits.max_num_seqs, limits.max_num_batched_tokens
    if limits.max_model_len is not None and not 1 <= limits.max_model_len <= longest:
        raise ModelError(f"max_model_len must be between 1 and {longest} for this model, not {limits.max_model_len}")
    if seqs < 1:
        raise ModelError(f"max_num_seqs must be at least 1, not {seqs}")
    if tokens < seqs:
        each = f"{seqs} (max_num_seqs): each running sequence needs one token a step"
        raise ModelError(f"max_num_batched_tokens must be at least {each}; it is {tokens}")
    share = limits.gpu_memory_utilization
    if share is not None and not 0 < share <= 1:
        raise ModelError(f"gpu_memory_utilization must be above 0 and at most 1, not {share}")
    if share is not None and limits.kv_cache_bytes is not None:
        raise ModelError("give gpu_memory_utilization or kv_cache_bytes, not both: each says how large the pool is")


def _kv_bytes(limits: Limits, device: Device, activation_bytes: int) -> int:
    """What the engine's share of the memory leaves for the pool. Raises ModelError where it leaves nothing."""
    free, total = device.memory_info()
    share = limits.gpu_memory_utilization
    if share is None and device.kind == "cpu":
        return min(CPU_KV_BYTES, free // 2)
    share = GPU_MEMORY_UTILIZATION if share is None else share
    left = int(share * total) - (total - free) - activation_bytes
    if left <= 0:
        taken = (total - free + activation_bytes) / 1e9
        raise ModelError(
            f"gpu_memory_utilization is {share}: {share * total / 1e9:.2f} of {total / 1e9:.2f} GB, and {taken:.2f} GB "
            "are taken by weights, activations and other programs; raise it, or take a smaller model"
        )
    return left
