"""Runs a scheduled batch on the device: host arrays in, sampled tokens out.

A decode step launches the same kernels with the same arguments as the one before it, so it is captured as a CUDA graph
and replayed: one driver call instead of hundreds. Only the contents of the step buffers differ.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bindings.device import Device, Graph
from bindings.dtypes import I32
from bindings.trace import label
from engine import ops
from engine.kv_cache import KVCache
from engine.models.llama import Llama
from engine.request import Request
from engine.scheduler import Batch
from engine.step import Step, StepBuffers


class Runner:
    """Owns the step buffers and the captured graphs. `enforce_eager` launches every kernel one by one instead."""

    def __init__(
        self,
        device: Device,
        model: Llama,
        cache: KVCache,
        buffers: StepBuffers,
        seed: int,
        enforce_eager: bool,
    ) -> None:
        self._device, self._model, self._cache, self._buffers = device, model, cache, buffers
        self._seed, self._enforce_eager = seed, enforce_eager
        self._stream = model.stream
        max_seqs = model.scratch.logits.shape[0]
        self._sampled = device.empty((max_seqs,), I32, "sampled")
        self._sampled_host = device.alloc_host(4 * max_seqs, "sampled.host")
        self._graphs: dict[tuple[int, int, bool], Graph] = {}
        self._warm: set[tuple[int, int, bool]] = set()
        self._steps = 0

    def execute(self, batch: Batch) -> list[int]:
        """Run one step and wait for it. Returns the token sampled after the last row of each piece of the batch."""
        self._steps += 1
        kind = " + ".join(name for name in ("decode", "prefill") if getattr(batch, f"{name}s"))
        with label(f"step {self._steps}"), label(kind):
            step = self._begin(batch)
            self._run(step)
            return self._read_sampled(step.num_seqs)

    def _begin(self, batch: Batch) -> Step:
        step = self._buffers.fill(batch, self._cache, [self._seed_of(piece.request) for piece in batch.pieces])
        self._buffers.upload(step, self._stream)
        return step

    def _seed_of(self, request: Request) -> int:
        return self._seed + request.index if request.params.seed is None else request.params.seed

    def _run(self, step: Step) -> None:
        """Replay the step's graph, or capture it. The first step of a shape runs eagerly: it loads what is lazy."""
        key = step.graph_key
        if not step.is_decode or self._enforce_eager:
            self._forward_and_sample(step)
        elif key in self._graphs:
            self._graphs[key].launch(self._stream)
        elif key in self._warm:
            with self._stream.capture() as graph:
                self._forward_and_sample(step)
            self._graphs[key] = graph
            graph.launch(self._stream)
        else:
            self._warm.add(key)
            self._forward_and_sample(step)

    def _forward_and_sample(self, step: Step) -> None:
        logits = self._model.forward(step)
        sampled = self._sampled[0 : step.num_seqs]
        with label("sample"):
            if step.greedy:
                ops.ARGMAX(self._stream, token_ids=sampled, logits=logits)
            else:
                ops.GUMBEL_SAMPLE(
                    self._stream, token_ids=sampled, logits=logits, temperature=step.temperature,
                    seeds=step.seeds, positions=step.seq_lens,
                )  # fmt: skip

    def _read_sampled(self, count: int) -> list[int]:
        address = self._sampled_host.address
        self._device.copy_out_async(address, self._sampled.address, 4 * count, self._stream)
        self._stream.synchronize()
        tokens: list[int] = self._sampled_host.numpy(I32, (count,)).tolist()
        return tokens

    def logits(self, batch: Batch) -> NDArray[np.float32]:
        """Run one step of a single request and return the logits f32[T, V] of all its rows, for tests and scoring."""
        step = self._begin(batch)
        hidden = self._model.hidden_states(step)
        limit = self._model.scratch.logits.shape[0]
        rows = [hidden[start : start + limit] for start in range(0, hidden.shape[0], limit)]
        return np.concatenate([self._model.lm_head(part).numpy(self._stream) for part in rows])

    def close(self) -> None:
        """Destroy the graphs and free the pinned memory."""
        for graph in self._graphs.values():
            graph.close()
        self._graphs.clear()
        self._sampled_host.free()
        self._buffers.free()
