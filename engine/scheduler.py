"""Who runs in this step: static batching, with prompts prefilled in chunks.

A batch is filled from the waiting queue, first come first served, while there are sequence slots and KV pages. Its
prompts are prefilled, at most `max_batched_tokens` tokens a step; then all its sequences decode one token a step until
the last is done, and the next batch is filled. A pure state machine: it knows nothing of devices.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from engine.kv_cache import KVCache
from engine.request import Request


@dataclass(frozen=True)
class Batch:
    """One step's work: for each request how many of its next tokens to run. `is_prefill`: some prompt is not done."""

    requests: list[Request]
    num_tokens: list[int]
    is_prefill: bool


class Scheduler:
    """The waiting queue and the running batch."""

    def __init__(self, cache: KVCache, max_num_seqs: int, max_batched_tokens: int) -> None:
        self._cache, self._max_num_seqs, self._max_batched_tokens = cache, max_num_seqs, max_batched_tokens
        self.waiting: deque[Request] = deque()
        self.running: list[Request] = []

    def add(self, request: Request) -> None:
        """Queue a request."""
        self.waiting.append(request)

    @property
    def has_work(self) -> bool:
        """Whether any request is not finished."""
        return bool(self.waiting or self.running)

    def schedule(self) -> Batch:
        """The next step's batch. Call only while `has_work`."""
        if not self.running:
            self._fill_batch()
        prefilling = [request for request in self.running if request.prefilling]
        if prefilling:
            return self._prefill(prefilling)
        return Batch(list(self.running), [1] * len(self.running), is_prefill=False)

    def _fill_batch(self) -> None:
        while self.waiting and len(self.running) < self._max_num_seqs:
            request = self.waiting[0]
            if self.running and not self._cache.fits(request.max_total_tokens):
                break  # with the pool to itself a request must fit, or admit() says why not
            self._cache.admit(request.index, request.max_total_tokens)
            self.running.append(self.waiting.popleft())

    def _prefill(self, prefilling: list[Request]) -> Batch:
        """Chunks of prompts, in order, until the token budget is spent."""
        requests, chunks, budget = [], [], self._max_batched_tokens
        for request in prefilling:
            chunk = min(request.num_prompt_tokens - request.num_computed, budget)
            if chunk == 0:
                break
            requests.append(request)
            chunks.append(chunk)
            budget -= chunk
        return Batch(requests, chunks, is_prefill=True)

    def finish(self, request: Request) -> None:
        """Take a request out of the batch and its pages back."""
        self.running.remove(request)
        self._cache.release(request.index)

    def clear(self) -> None:
        """Drop everything: what remains of a generation that was abandoned."""
        for request in list(self.running):
            self.finish(request)
        self.waiting.clear()
