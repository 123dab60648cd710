"""From weights on a device to an engine that runs: which part is given what, in one place."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from bindings.device import Device
from bindings.dtypes import BF16
from engine import engine_config
from engine.checkpoint import expected_tensors
from engine.config import ModelConfig
from engine.engine_config import EngineConfig, Limits
from engine.kv_cache import KVCache
from engine.llm_engine import LLMEngine
from engine.models import llama
from engine.progress import Progress
from engine.runner import Runner, build_runner
from engine.scheduler import Batching, Scheduler
from engine.weights import LlamaWeights


@dataclass(frozen=True)
class Ways:
    """How an engine works, beside its limits: the options of `LLM` under their names."""

    batching: Batching
    enable_prefix_caching: bool
    enforce_eager: bool
    async_scheduling: bool
    deterministic: bool
    seed: int


def compile_kernels(device: Device, config: ModelConfig, progress: Progress) -> None:
    """Compile what the model needs on all cores, then load it: nothing may be loaded while a graph is captured."""
    wanted = llama.kernels_of(config, engine_config.PAGE_SIZE)
    jobs = [(op.source, op.defines(symbols, device.max_dynamic_smem)) for op, symbols in wanted]
    device.kernels.precompile(jobs, lambda done, total: progress("compile kernels", done, total, "kernels"))
    for op, symbols in wanted:
        op.kernel(device, symbols)


def weights_advice(config: ModelConfig) -> str:
    """What to do where the weights do not fit."""
    nbytes = BF16.itemsize * sum(prod(shape) for shape in expected_tensors(config).values())
    return f"the weights are {nbytes / 1e6:,.1f} MB in all: take a smaller model, or a device with more memory"


def settle_limits(limits: Limits, config: ModelConfig, device: Device, deterministic: bool) -> EngineConfig:
    """The limits as the model and the memory that its weights left allow them. Raises ModelError when they clash."""
    longest = limits.max_model_len or config.max_position_embeddings
    sizes = (limits.max_num_batched_tokens, limits.max_num_seqs, longest)
    return engine_config.settle(limits, config, device, llama.activation_bytes(config, *sizes, deterministic))


def build_engine(
    device: Device, config: ModelConfig, weights: LlamaWeights, limits: EngineConfig, ways: Ways,
    stop_ids: frozenset[int],
) -> tuple[LLMEngine, Runner]:  # fmt: skip
    """The engine, and the runner, which is to be closed at its end. `stop_ids`: the model's own end tokens."""
    pages_per_seq = -(-limits.max_model_len // limits.page_size)
    pool = (limits.num_pages, limits.page_size, limits.max_num_seqs, pages_per_seq)
    cache = KVCache(*pool, ways.enable_prefix_caching)
    scheduler = Scheduler(cache, limits.max_num_seqs, limits.max_num_batched_tokens, ways.batching)
    model = (device, config, weights, limits)
    runner = build_runner(*model, cache, ways.seed, stop_ids, ways.enforce_eager, ways.deterministic)
    return LLMEngine(scheduler, runner, ways.async_scheduling), runner
