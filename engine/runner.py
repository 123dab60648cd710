"""Runs a scheduled batch on the device: host arrays in, chosen tokens out, without waiting for them.

A decode step launches the same kernels with the same arguments as the one before it, so it is captured as a CUDA graph
and replayed: one driver call instead of hundreds. Only the contents of the step buffers differ. A graph serves one
number of sequences; to need few of them, a batch is filled up with empty sequences to the next of some sizes.

The tokens that a step chooses stay on the device, where the next step finds them. The host reads them later.
"""

from __future__ import annotations

from bisect import bisect_left
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from bindings.device import Device, Event, Graph
from bindings.dtypes import BF16, I32
from bindings.errors import CudaError
from bindings.trace import label, recorder
from engine.config import ModelConfig
from engine.engine_config import EngineConfig
from engine.errors import out_of_memory_advice
from engine.kv_cache import KVCache
from engine.logprobs import PendingLogprobs, TokenLogprobs
from engine.models import llama
from engine.models.llama import Llama
from engine.prompt_logprobs import PromptLogprobs
from engine.sampler import Sampler
from engine.scheduler import Batch
from engine.staging import TWINS, Staging
from engine.step import Step, StepBuffers
from engine.step_times import StepTimes
from engine.weights import LlamaWeights

COPY_LISTS = ("sources", "targets", "tokens")  # a PageCopy's fields, of all copies of a step

Draw = Literal["greedy", "sampled"] | None  # None: the sampler has more to do than to draw
GraphKey = tuple[int, int, Draw]  # sequences, splits of a sequence, how tokens are drawn

KV_ADVICE = "lower max_model_len (--max-model-len), kv_cache_bytes or max_num_seqs, or take a smaller model"
ACTIVATIONS_ADVICE = "lower max_num_seqs, max_model_len (--max-model-len) or kv_cache_bytes, or take a smaller model"


class RunningStep:
    """A step that was given to the device."""

    def __init__(self, batch: Batch, tokens: NDArray[np.int32], logprobs: PendingLogprobs | None, done: Event) -> None:
        self.batch, self._tokens, self._logprobs, self._done = batch, tokens, logprobs, done

    def tokens(self) -> list[int]:
        """Wait for the step; the token that each request of its batch chose."""
        self._done.synchronize()
        tokens: list[int] = self._tokens.tolist()
        return tokens

    def logprobs(self) -> TokenLogprobs | None:
        """The log-probabilities of these tokens, if a request wants some. Only after `tokens`."""
        return None if self._logprobs is None else self._logprobs.read()


class Runner:
    """Owns the step buffers and the captured graphs. `enforce_eager` launches every kernel one by one instead.

    Up to two steps may be under way; `launch` reuses the memory of the one before them.
    """

    def __init__(
        self, device: Device, model: Llama, cache: KVCache, buffers: StepBuffers, sampler: Sampler, enforce_eager: bool
    ) -> None:
        self._device, self._model, self._cache, self._buffers = device, model, cache, buffers
        self._sampler, self._enforce_eager, self._stream = sampler, enforce_eager, model.stream
        self._prompt_logprobs = PromptLogprobs(device, model, sampler)
        self._chosen = model.scratch.chosen
        max_seqs = self._chosen.shape[0]
        self._buckets = graph_buckets(max_seqs)
        self._chosen_host = [device.alloc_host(4 * max_seqs, f"chosen.host.{i}") for i in range(TWINS)]
        self._done = [Event(timing=False) for _ in range(TWINS)]
        self._copies = Staging(device, "copies", [(name, I32, (max_seqs,)) for name in COPY_LISTS])
        self._graphs: dict[GraphKey, Graph] = {}
        self._warm: set[GraphKey] = set()
        self._steps = 0
        self.times: StepTimes | None = None  # where somebody watches how long steps take

    def launch(self, batch: Batch) -> RunningStep:
        """Give one step to the device."""
        self._steps += 1
        kind = " + ".join(name for name in ("decode", "prefill") if getattr(batch, f"{name}s"))
        with label(f"step {batch.number}"), label(kind):
            with self.times.host_work() if self.times else nullcontext():
                for request in batch.joined:
                    self._sampler.assign(request)
                step = self._fill(batch)
            with self._timed(batch, step):
                self._copy_pages(batch)
                self._buffers.upload(step, self._stream)
                logprobs = self._run(step)
            running = self._bring_back(batch, logprobs)
            self._prompt_logprobs.collect(batch.prefills, step.decode.num_seqs)
            return running

    def _timed(self, batch: Batch, step: Step) -> AbstractContextManager[None]:
        if self.times is None:
            return nullcontext()
        decodes, prefill_tokens = len(batch.decodes), step.token_ids.shape[0] - step.decode.num_seqs
        return self.times.step(self._stream, decodes, prefill_tokens, step.decode.kv_tokens + step.prefill.kv_tokens)

    def _copy_pages(self, batch: Batch) -> None:
        """Copy-on-write. No sequence is given more than one copy in a step, so that there is room for all."""
        if not batch.copies:
            return
        copies, start = [copy for wave in batch.copies for copy in wave], 0
        self._copies.turn()
        for name, column in zip(COPY_LISTS, zip(*copies, strict=True), strict=True):
            self._copies.host[name][: len(copies)] = column
        self._copies.upload(self._stream)
        for wave in batch.copies:
            rows = slice(start, start + len(wave))
            self._model.copy_pages(*(self._copies.tensors[name][rows] for name in COPY_LISTS))
            start = rows.stop

    def _fill(self, batch: Batch) -> Step:
        decodes = len(batch.decodes)
        if decodes and not batch.prefills and self._uses_graphs:
            decodes = self._buckets[bisect_left(self._buckets, decodes)]
        return self._buffers.fill(batch, self._cache, self._sampler.by_row, decodes)

    @property
    def _uses_graphs(self) -> bool:
        return not (self._enforce_eager or recorder.wants_eager)

    def _run(self, step: Step) -> PendingLogprobs | None:
        """The model, then the choice of tokens: in a graph with it where that is no more than a draw."""
        draw: Draw = None
        if self._sampler.is_plain(step.rows):
            draw = "greedy" if self._sampler.is_greedy(step.rows) else "sampled"
        if step.is_decode and self._uses_graphs:
            self._replay(step, draw)
        else:
            with recorder.replaying(graph_is_usual=step.is_decode and not self._enforce_eager):
                self._forward(step, draw)
        return None if draw else self._sample(step)

    def _replay(self, step: Step, draw: Draw) -> None:
        """Replay the step's graph, or capture it. The first step of a shape runs eagerly: it loads what is lazy."""
        key = step.num_seqs, step.num_splits, draw
        if key in self._graphs:
            self._graphs[key].launch(self._stream)
        elif key in self._warm:
            with self._stream.capture() as graph:
                self._forward(step, draw)
            self._graphs[key] = graph
            graph.launch(self._stream)
        else:
            self._warm.add(key)
            self._forward(step, draw)

    def _forward(self, step: Step, draw: Draw) -> None:
        logits = self._model.forward(step)
        if draw:
            with label("sample"):
                self._sampler.draw(self._chosen[0 : step.num_seqs], logits, step.parameters, draw == "greedy")

    def _sample(self, step: Step) -> PendingLogprobs | None:
        """Of the sequences alone that do not just fill the step up."""
        count = len(step.rows)
        logits, parameters = self._model.scratch.logits[0:count], self._buffers.parameters(count)
        return self._sampler.sample(self._chosen[0:count], logits, parameters, step.rows, step.next_positions)

    def _bring_back(self, batch: Batch, logprobs: PendingLogprobs | None) -> RunningStep:
        """Start the copy of the chosen tokens to the host."""
        host, done, count = self._chosen_host[self._steps % TWINS], self._done[self._steps % TWINS], len(batch)
        self._device.copy_out_async(host.address, self._chosen.address, 4 * count, self._stream)
        self._stream.record(done)
        return RunningStep(batch, host.numpy(I32, (count,)), logprobs, done)

    def logits(self, batch: Batch) -> NDArray[np.float32]:
        """Run one step of a single request and return the logits f32[T, V] of all its rows, for tests and scoring."""
        step = self._fill(batch)
        self._buffers.upload(step, self._stream)
        hidden = self._model.hidden_states(step)
        limit = self._model.scratch.logits.shape[0]
        rows = [hidden[start : start + limit] for start in range(0, hidden.shape[0], limit)]
        return np.concatenate([self._model.lm_head(part).numpy(self._stream) for part in rows])

    def close(self) -> None:
        """Wait for what is under way; destroy the graphs and free the pinned memory."""
        try:
            self._stream.synchronize()
        except CudaError:
            return  # nothing of a dead context can be freed one by one; its device tells the failure, if it is new
        for graph in self._graphs.values():
            graph.close()
        self._graphs.clear()
        for event, host in zip(self._done, self._chosen_host, strict=True):
            event.close()
            host.free()
        self._sampler.close()
        self._prompt_logprobs.close()
        self._copies.free()
        self._buffers.free()
        self._model.blas.close()


def build_runner(
    device: Device, config: ModelConfig, weights: LlamaWeights, limits: EngineConfig, cache: KVCache,
    seed: int, stop_ids: frozenset[int], enforce_eager: bool, deterministic: bool = False,
) -> Runner:  # fmt: skip
    """Allocate the KV pages and all else that steps within `limits` need. Raises OutOfMemory with what to lower.

    seed: for requests that bring none. stop_ids: the model's own end tokens.
    """
    shape = (2 * config.num_layers, limits.num_pages, config.num_kv_heads, limits.page_size, config.head_dim)
    with out_of_memory_advice(KV_ADVICE):
        kv_pages = device.empty(shape, BF16, "kv_pages")
    sizes, longest = (limits.max_num_batched_tokens, limits.max_num_seqs), limits.max_model_len
    with ExitStack() as undo, out_of_memory_advice(ACTIVATIONS_ADVICE):
        model = llama.build(device, device.stream, config, weights, kv_pages, *sizes, longest, deterministic)
        undo.callback(model.blas.close)
        buffers = StepBuffers(device, *sizes, longest, limits.page_size)
        sampler = Sampler(device, device.stream, limits.max_num_seqs, config.vocab_size, seed, stop_ids)
        runner = Runner(device, model, cache, buffers, sampler, enforce_eager)
        undo.pop_all()
        return runner


def graph_buckets(max_seqs: int) -> list[int]:
    """The numbers of sequences that graphs are captured for: close together where a step is short."""
    sizes = [1, 2, 4, *range(8, 256, 8), *range(256, max_seqs, 16)]
    return [size for size in sizes if size < max_seqs] + [max_seqs]
