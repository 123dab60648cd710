"""The engine: requests in, one step at a time, events out. The loop of continuous batching.

`LLM` (llm.py) puts prompts and texts around it; a server drives it directly.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from bindings.device import Device
from bindings.dtypes import BF16
from engine.answer import Answer
from engine.config import ModelConfig
from engine.engine_config import EngineConfig
from engine.errors import ModelError, out_of_memory_advice
from engine.kv_cache import KVCache
from engine.models import llama
from engine.outputs import StreamEvent
from engine.request import Request
from engine.runner import Runner
from engine.sampling_params import SamplingParams
from engine.scheduler import Batch, Batching, Piece, Scheduler
from engine.step import StepBuffers
from engine.weights import LlamaWeights

KV_ADVICE = "lower max_model_len (--max-model-len), kv_cache_bytes or max_num_seqs, or take a smaller model"
ACTIVATIONS_ADVICE = "lower max_num_seqs, max_model_len (--max-model-len) or kv_cache_bytes, or take a smaller model"


class LLMEngine:
    """Scheduler, KV cache and runner of one model on one device. Limits: engine_config.py. Call `close()` at the end."""

    def __init__(
        self, device: Device, config: ModelConfig, weights: LlamaWeights, limits: EngineConfig,
        batching: Batching = "continuous", prefix_caching: bool = True, enforce_eager: bool = False, seed: int = 0,
    ) -> None:  # fmt: skip
        self.device, self.config, self.limits = device, config, limits
        self.cache = KVCache(limits.num_pages, limits.page_size, prefix_caching)
        self.scheduler = Scheduler(self.cache, limits.max_num_seqs, limits.max_num_batched_tokens, batching)
        self._requests: dict[int, Request] = {}
        with ExitStack() as undo:
            self._build(weights, seed, enforce_eager, undo)
            self._open = undo.pop_all()

    def _build(self, weights: LlamaWeights, seed: int, enforce_eager: bool, undo: ExitStack) -> None:
        c, limits, device = self.config, self.limits, self.device
        shape = (2 * c.num_layers, limits.num_pages, c.num_kv_heads, limits.page_size, c.head_dim)
        with out_of_memory_advice(KV_ADVICE):
            kv_pages = device.empty(shape, BF16, "kv_pages")
        sizes = (limits.max_num_batched_tokens, limits.max_num_seqs)
        with out_of_memory_advice(ACTIVATIONS_ADVICE):
            model = llama.build(device, device.stream, c, weights, kv_pages, *sizes, limits.max_model_len)
            undo.callback(model.blas.close)
            buffers = StepBuffers(device, *sizes, self.cache.pages_for(limits.max_model_len))
            self._runner = Runner(device, model, self.cache, buffers, seed, enforce_eager)
            undo.callback(self._runner.close)

    def add_request(
        self,
        index: int,
        prompt_ids: Sequence[int],
        params: SamplingParams,
        answers: Sequence[Answer],
        priority: int = 0,
    ) -> None:
        """Queue a prompt as request `index`. Raises ModelError when it could never run."""
        request = Request(index, prompt_ids, params, answers[0], priority)
        self.scheduler.add(request)
        self._requests[index] = request

    def abort_request(self, index: int) -> None:
        """Drop a request that has not ended, and take its pages back. One that has ended, or never was, is no error."""
        request = self._requests.pop(index, None)
        if request is not None:
            self.scheduler.finish(request)

    @property
    def has_unfinished_requests(self) -> bool:
        """Whether `step` has something to do."""
        return self.scheduler.has_work

    def step(self) -> list[StreamEvent]:
        """Run one scheduled batch: the next tokens of every request that runs."""
        batch = self.scheduler.schedule()
        sampled = self._runner.execute(batch)
        ended = [piece.is_last for piece in batch.pieces]
        self.scheduler.ran(batch)
        events = []
        for piece, is_last, token in zip(batch.pieces, ended, sampled, strict=True):
            if is_last:
                events.append(self._advance(piece.request, token))
        return events

    def _advance(self, request: Request, token: int) -> StreamEvent:
        request.token_ids.append(token)
        event = request.answer.append(token)
        if event.finished:
            self.scheduler.finish(request)
            del self._requests[request.index]
        return event

    def score(self, request: Request, decode_from: int | None = None) -> NDArray[np.float32]:
        """Logits f32[T, V] after every token of a request that is not queued.

        The first `decode_from` tokens (default: all) are prefilled together, the others follow one decode step each.
        """
        count = len(request.token_ids)
        split = count if decode_from is None else decode_from
        bounds = [0] * (split > 0) + list(range(split, count + 1))
        pieces = [Piece(request, start, stop) for start, stop in pairwise(bounds)]
        self.cache.open(request)  # without looking for a prefix: the logits of every token are wanted
        try:
            if not self.cache.grow(request, count):
                raise ModelError(f"{count} tokens do not fit into the {self.cache.available} free KV pages")
            batches = [Batch([], [piece]) if piece.start < split else Batch([piece], []) for piece in pieces]
            return np.concatenate([self._runner.logits(batch) for batch in batches])
        finally:
            self.cache.release(request)

    def close(self) -> None:
        """Free what the engine holds beside its device's buffers."""
        self._open.close()
