"""The engine: requests in, one step at a time, events out. The loop of continuous batching.

`LLM` (llm.py) puts prompts and texts around it; a server drives it directly.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import pairwise
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from bindings.errors import CudaError
from bindings.trace import recorder
from engine.answer import Answer
from engine.errors import EngineDeadError, ModelError, UsageError
from engine.logprobs import TokenLogprobs
from engine.outputs import StreamEvent
from engine.request import Request
from engine.sampling_params import SamplingParams
from engine.scheduler import Batch, Piece, Scheduler
from engine.step_notes import StepNotes
from engine.step_times import StepTimes


class LaunchedStep(Protocol):
    """A step that was given to the device."""

    @property
    def batch(self) -> Batch:
        """What runs."""

    def tokens(self) -> list[int]:
        """Wait for the step; the token that each request of its batch chose."""

    def logprobs(self) -> TokenLogprobs | None:
        """Of these tokens, if a request wants some. Only after `tokens`."""


class StepRunner(Protocol):
    """What runs the steps: engine/runner.py, or a model of it in a test. `times`: who watches how long they take."""

    times: StepTimes | None

    def launch(self, batch: Batch) -> LaunchedStep:
        """Give one step to the device, which runs them in this order."""

    def logits(self, batch: Batch) -> NDArray[np.float32]:
        """Run one step of a single request; the logits f32[T, V] of all its rows."""


class LLMEngine:
    """The loop around a scheduler and a runner.

    async_scheduling: plan and launch step n + 1 while step n runs, and read the tokens of step n after that: the device
    need not wait for the host. A sequence that turns out to have ended has then run one step too many, which nobody
    sees.
    watch: called with each step's batch before it runs; None: nobody watches.
    """

    def __init__(self, scheduler: Scheduler, runner: StepRunner, async_scheduling: bool) -> None:
        self.scheduler, self.cache = scheduler, scheduler.cache
        self._runner, self._lookahead = runner, async_scheduling
        self._under_way: deque[LaunchedStep] = deque()
        self._live: dict[int, list[Request]] = {}  # the answers to each prompt that have not ended
        self._num_requests = self._num_steps = 0
        self._notes = StepNotes(scheduler)
        self._death = ""  # since when it can do nothing more
        self.watch: Callable[[Batch], None] | None = None

    def add_request(
        self, index: int, prompt_ids: Sequence[int], params: SamplingParams,
        answers: Sequence[Answer], priority: int = 0,
    ) -> None:  # fmt: skip
        """Queue a prompt as number `index`, for as many answers. A lower `priority` number goes first.

        Raises ModelError when it could never run, EngineDeadError after a failure of the device.
        """
        with self._alive():
            pass
        numbers = range(self._num_requests, self._num_requests + len(answers))
        requests = [Request(n, prompt_ids, params, a, priority) for n, a in zip(numbers, answers, strict=True)]
        leader, *forks = requests
        leader.forks = forks
        for fork in forks:
            fork.leader = leader
        self.scheduler.add(leader)
        self._live[index] = requests
        self._num_requests += len(answers)

    def abort_request(self, index: int) -> None:
        """Drop a prompt's answers that have not ended, and take their pages back. If there are none, do nothing."""
        requests = self._live.pop(index, [])
        unborn = {fork.index for request in requests for fork in request.forks}
        for request in requests:
            request.answer.abort()
            request.forks = []
            if request.index not in unborn:
                self.scheduler.finish(request)

    @property
    def has_unfinished_requests(self) -> bool:
        """Whether `step` has something to do."""
        return bool(self._live)

    def step(self) -> list[StreamEvent]:
        """The next tokens of every request that runs, or of those of them that the budget has room for.

        Raises CudaError when the device fails. After that, or anything else that broke a step off, all requests have
        ended, with that for a reason, and the engine is dead: whatever is asked of it raises EngineDeadError.
        """
        with self._alive(fatal=BaseException):  # half a step, Ctrl-C in it for example, cannot be undone
            return self._step()

    def _step(self) -> list[StreamEvent]:
        while len(self._under_way) < self._depth():
            with self._runner.times.host_work() if self._runner.times else nullcontext():
                batch = self.scheduler.schedule()
            if not batch:
                break
            self._num_steps += 1
            batch.number = self._num_steps
            if self.watch:
                self.watch(batch)
            if recorder.is_detailed:
                recorder.note(self._notes.of(batch))
            self._under_way.append(self._runner.launch(batch))
        events = self._collect(self._under_way.popleft()) if self._under_way else []
        while self._under_way and not self.scheduler.has_work:  # it was for sequences that have ended
            self._under_way.popleft().tokens()
        return events

    def _depth(self) -> int:
        """Steps that may be under way: one where the next cannot be planned before the tokens have been read."""
        if not self._lookahead or any(request.params.needs_tokens for request in self.scheduler.running):
            return 1
        return 2

    def _collect(self, step: LaunchedStep) -> list[StreamEvent]:
        tokens, logprobs, batch = step.tokens(), step.logprobs(), step.batch
        chosen = [True] * len(batch.decodes) + [piece.samples for piece in batch.prefills]
        events = []
        for row, request in enumerate(batch.requests):
            if chosen[row] and not request.answer.finished:  # it may have ended since
                request.token_ids.append(tokens[row])
                event = request.answer.append(tokens[row], logprobs, row)
                if event is not None:
                    events.append(event)
                    if event.finished:
                        self._end(request)
        return events

    def _end(self, request: Request) -> None:
        self.scheduler.finish(request)
        index = request.answer.index
        self._live[index].remove(request)
        if not self._live[index]:
            del self._live[index]

    @contextmanager
    def _alive(self, fatal: type[BaseException] = CudaError) -> Iterator[None]:
        """For what a dead engine can't do, and what it dies of."""
        if self._death:
            raise EngineDeadError(f"the engine is dead {self._death}; make a new one")
        try:
            yield
        except fatal as error:
            self._die(error)
            raise

    def _die(self, error: BaseException) -> None:
        """End all requests: what the pages hold cannot be trusted any more, or the device cannot be asked for it."""
        reason = str(error) or type(error).__name__
        self._death = f"since a step failed: {reason}"
        self._under_way.clear()
        for request in [request for requests in self._live.values() for request in requests]:
            request.answer.fail(reason)
        self._live.clear()

    def close(self) -> None:
        """Refuse all that is asked from now on."""
        self._death = self._death or "since it was closed"

    @contextmanager
    def timed_steps(self) -> Iterator[StepTimes]:
        """Inside the block the steps are timed; read the times before it ends."""
        with StepTimes() as times:
            self._runner.times = times
            try:
                yield times
            finally:
                self._runner.times = None

    def score(self, request: Request, decode_from: int | None = None) -> NDArray[np.float32]:
        """Logits f32[T, V] after every token of a request that is not queued.

        The first `decode_from` tokens (default: all) are prefilled, in chunks as large as a step; the others follow one
        decode step each.
        """
        count = len(request.token_ids)
        split = count if decode_from is None else decode_from
        if not 0 <= split <= count:
            raise UsageError(f"decode_from must be between 0 and {count}, the number of tokens, not {decode_from}")
        bounds = [*range(0, split, self.scheduler.max_batched_tokens), *range(split, count + 1)]
        pieces = [Piece(request, start, stop, samples=True) for start, stop in pairwise(bounds)]
        with self._alive():
            self.cache.open(request)  # without looking for a prefix: the logits of every token are wanted
            try:
                if not self.cache.grow(request, count):
                    raise ModelError(f"{count} tokens do not fit into the {self.cache.available} free KV pages")
                return np.concatenate([self._runner.logits(_alone(piece, piece.start >= split)) for piece in pieces])
            finally:
                self.cache.release(request)


def _alone(piece: Piece, decodes: bool) -> Batch:
    return Batch(decodes=[piece.request], positions=[piece.start]) if decodes else Batch(prefills=[piece])
