"""Who runs in this step: continuous batching with a token budget (Orca, Yu et al. 2022; chunked prefill, Sarathi 2023).

Every step first gives each running request its next tokens: one while it decodes, a chunk of the prompt while that is
not done. What is left of the budget admits waiting requests. So a request joins as soon as there is room and leaves as
soon as it ends, and long prompts never hold up the others for more than a step.

When the pages run out, the last in line of those that run is preempted: its pages go back, it waits at its old place
in the queue and is computed anew later. The first in line can take every page there is, so somebody always advances.

`batching="static"` is the baseline that came before: a batch is filled, runs until its last request is done, and only
then comes the next one.

A pure state machine: it knows nothing of devices.
"""

from __future__ import annotations

import heapq
from bisect import insort
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, get_args

from engine.errors import ModelError
from engine.kv_cache import KVCache, PageCopy
from engine.request import Request

Batching = Literal["continuous", "static"]


class Piece(NamedTuple):
    """Some tokens of one request: token_ids[start:stop] run in this step.

    samples: nothing is left to run after it, so that its last row's logits choose the request's next token.
    """

    request: Request
    start: int
    stop: int
    samples: bool


@dataclass
class Batch:
    """One step's work: decodes and prefills, which attend through different kernels.

    decodes: requests that run one token, their last so far, at `positions`; each chooses its next.
    prefills: all other pieces. copies: pages to copy first, one list after the other.
    joined: requests that run from this step on, and so have a row. number: of the step, from 1 on.
    """

    decodes: list[Request] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    prefills: list[Piece] = field(default_factory=list)
    copies: list[list[PageCopy]] = field(default_factory=list)
    joined: list[Request] = field(default_factory=list)
    number: int = 0

    def __bool__(self) -> bool:
        return bool(self.decodes or self.prefills)

    def __len__(self) -> int:
        return len(self.decodes) + len(self.prefills)

    def add(self, request: Request, count: int) -> None:
        """Run the next `count` tokens of a request, which has come that much further from here on."""
        start = request.num_computed
        request.num_computed = stop = start + count
        samples = stop == request.num_tokens
        request.num_tokens += samples
        if count == 1 and samples:
            self.decodes.append(request)
            self.positions.append(start)
        else:
            self.prefills.append(Piece(request, start, stop, samples))

    @property
    def requests(self) -> list[Request]:
        """Whose turn it is, in the order of the step's rows: decodes first."""
        return self.decodes + [piece.request for piece in self.prefills]

    @property
    def pieces(self) -> list[Piece]:
        """All of it as pieces, in the same order."""
        decodes = zip(self.decodes, self.positions, strict=True)
        return [Piece(request, start, start + 1, samples=True) for request, start in decodes] + self.prefills


class WaitingQueue:
    """Requests in the order in which they are to be admitted, however many there are."""

    def __init__(self) -> None:
        self._heap: list[tuple[tuple[int, int], Request]] = []
        self._aborted: set[int] = set()

    def __len__(self) -> int:
        return len(self._heap) - len(self._aborted)

    def push(self, request: Request) -> None:
        """Queue a request: a lower priority number first, then whoever came first (a preempted one keeps its place)."""
        heapq.heappush(self._heap, (request.rank, request))

    def first(self) -> Request:
        """The next one to admit. Raises IndexError when nobody waits."""
        while self._heap[0][1].index in self._aborted:
            self._aborted.remove(heapq.heappop(self._heap)[1].index)
        return self._heap[0][1]

    def pop(self) -> Request:
        """Take out the next one."""
        request = self.first()
        heapq.heappop(self._heap)
        self._sweep()
        return request

    def abort(self, request: Request) -> None:
        """Drop a request that waits."""
        self._aborted.add(request.index)
        self._sweep()

    def _sweep(self) -> None:
        """Take aborted requests out of the heap where they are half of it: behind others they might never come up."""
        if self._aborted and 2 * len(self._aborted) >= len(self._heap):
            self._heap = [entry for entry in self._heap if entry[1].index not in self._aborted]
            heapq.heapify(self._heap)
            self._aborted.clear()


class Scheduler:
    """The waiting queue and the running requests, in order of rank."""

    def __init__(
        self, cache: KVCache, max_num_seqs: int, max_batched_tokens: int, batching: Batching = "continuous"
    ) -> None:
        if batching not in get_args(Batching):
            raise ModelError(f"batching is {batching!r}; it must be one of {', '.join(get_args(Batching))}")
        self.cache, self._max_num_seqs, self.max_batched_tokens = cache, max_num_seqs, max_batched_tokens
        self._static = batching == "static"
        self.waiting = WaitingQueue()
        self.running: list[Request] = []
        self.num_preemptions = self.num_steps = 0
        self._forks: list[Request] = []  # to be queued for the next step

    def add(self, request: Request) -> None:
        """Queue a request. Raises ModelError when the pool could not hold it even alone."""
        needed = self.cache.pages_for(request.max_total_tokens)
        if needed > self.cache.num_pages:
            raise ModelError(
                f"{request.max_total_tokens} tokens need {needed} KV pages of {self.cache.page_size} tokens, the pool "
                f"has {self.cache.num_pages}; lower max_tokens or raise kv_cache_bytes"
            )
        self.waiting.push(request)
        if self._static:  # a batch that runs takes nobody in: all answers to a prompt come together, and share less
            for fork in request.forks:
                self.waiting.push(fork)
            request.forks = []

    @property
    def has_work(self) -> bool:
        """Whether any request is not finished."""
        return bool(self.waiting or self.running)

    def schedule(self) -> Batch:
        """The next step's batch; every request of it has the pages that it needs.

        It may be empty while tokens of earlier steps have not been read: then all who run have come to their end.
        """
        batch = Batch()
        self.num_steps += 1
        may_admit = not (self._static and self.running)
        preemptions = self.num_preemptions
        budget = self._continue_running(batch)
        if may_admit and self.num_preemptions == preemptions:
            self._admit_waiting(batch, budget)
        batch.copies = self.cache.take_copies()
        while self._forks:
            self.waiting.push(self._forks.pop())
        return batch

    def _continue_running(self, batch: Batch) -> int:
        """The next tokens of who runs already; what is left of the budget."""
        budget = self.max_batched_tokens
        for request in self.running:  # the last of whom may be preempted meanwhile, which ends the loop earlier
            if budget == 0:
                break
            start = request.num_computed
            if start == request.room > 0:
                self._extend_room(request)
            if start < request.room:  # as `_run` does it, for the many that just go on
                request.num_computed = start + 1
                request.num_tokens += 1
                batch.decodes.append(request)
                batch.positions.append(start)
                budget -= 1
            elif request.num_tokens < request.max_total_tokens:  # else its last token is about to be read
                count = request.num_tokens - start
                if count > 1:
                    count = min(count, budget - self._decodes_behind(request))
                if count == 0:
                    continue  # the budget is just enough for those behind
                if not self._make_room(request, count):
                    break  # it was the last in line, and is waiting now
                self._run(batch, request, count)
                budget -= count
        return budget

    def _extend_room(self, request: Request) -> None:
        """One more page for a sequence that decodes and has filled its own, if one is free."""
        if request.room < request.max_total_tokens - 1 and self.cache.add_page(request):
            request.room = min(request.room + self.cache.page_size, request.max_total_tokens - 1)

    def _decodes_behind(self, request: Request) -> int:
        """How many come after it and want one token each: a long prompt of high rank must leave them theirs."""
        behind = self.running[self.running.index(request) + 1 :]
        return sum(later.num_tokens - later.num_computed == 1 for later in behind)

    def _run(self, batch: Batch, request: Request, count: int) -> None:
        batch.add(request, count)
        self.cache.remember(request)
        stop = request.num_computed
        if stop >= request.num_prompt_tokens > stop - count:
            request.prompt_step = self.num_steps
            self._forks += request.forks  # from the next step on they can share its pages
            request.forks = []
        decodes = stop == request.num_tokens - 1 and stop >= request.num_prompt_tokens
        request.room = min(self.cache.capacity(request), request.max_total_tokens - 1) if decodes else 0

    def _make_room(self, request: Request, count: int) -> bool:
        """Pages for the next `count` tokens of a running request, taken from whoever came last. False if that is it."""
        while not self.cache.grow(request, request.num_computed + count):
            victim = self.running[-1]
            self._preempt(victim)
            if victim is request:
                return False
        return True

    def _preempt(self, request: Request) -> None:
        self.running.remove(request)
        self.cache.release(request)
        request.num_computed = request.room = 0
        request.prompt_step = -1
        self.num_preemptions += 1
        self.waiting.push(request)

    def _admit_waiting(self, batch: Batch, budget: int) -> None:
        """Let requests join. A static batch is filled at once: whom the budget leaves out begins in a later step."""
        while self.waiting and len(self.running) < self._max_num_seqs and (budget or self._static):
            request = self.waiting.first()
            found = self.cache.admit(request, self.num_steps)
            if found is None:
                return  # nobody overtakes it: a long prompt would wait for ever
            request.num_computed = found
            count = min(request.num_tokens - found, budget)
            self.cache.grow(request, found + count)
            insort(self.running, self.waiting.pop(), key=lambda item: item.rank)
            batch.joined.append(request)
            if count:
                budget -= count
                self._run(batch, request, count)

    def finish(self, request: Request) -> None:
        """Take a request out, wherever it is, and its pages back: it has ended or was aborted."""
        if request.row >= 0:
            self.running.remove(request)
            self.cache.release(request)
        else:
            self.waiting.abort(request)
