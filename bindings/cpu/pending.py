"""Work that was given to streams and has not run yet, and the choice of what runs next.

Eager, the default, runs an operation in the call that gives it: the cheapest order that CUDA allows, in which a fault
shows at the line that caused it, as with CUDA_LAUNCH_BLOCKING=1. Lazy is CUDA at its least obliging, to find programs
that are right by luck: nothing runs until the host waits for it, and where several streams, or branches of a graph,
could go on, a seeded choice decides. Any order that streams, events and graphs allow can come out, no other can.

streams.set_streams("lazy", seed) or CUTAWAY_CPU_STREAMS=lazy:SEED switches.
"""

from __future__ import annotations

import atexit
import os
import random
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

from bindings.cpu import activity, context, fences
from bindings.cpu.context import SUCCESS, Failure, on_context_end, state
from bindings.cpu.operations import Operation, Watch

# What may wait: a program that never synchronises must not fill the host's memory.
MAX_TASKS = 1024
MAX_BYTES = 256 << 20

# How likely the stream that ran last goes on, drawn anew for each wait: every operation a new choice, long runs, or one
# stream as far as it goes. A single value finds only the mistakes that show at its own distance.
PATIENCE = (0.0, 0.9, 1.0)

Clock = dict[object, int]


class Task:
    """An operation (None: nothing to do but wait) in line. `lane` is its stream, `site` the Python line that gave it.

    `clock` says of each stream how many of its tasks are sure to come before this one (itself included), `origin` which
    call gave it (known while somebody traces), and as which node if that was a graph.
    """

    __slots__ = ("blockers", "clock", "done", "followers", "lane", "operation", "origin", "site", "watch")

    def __init__(
        self, lane: object, operation: Operation | None, site: str, clock: Clock, node: int | None = None
    ) -> None:
        self.lane, self.operation, self.site, self.clock = lane, operation, site, clock
        self.origin = activity.Origin(activity.origin().call, node)
        self.watch: Watch | None = operation.watch() if operation else None
        self.blockers = 0
        self.followers: list[Task] = []
        self.done = False


class Pending:
    """All tasks that have not run. `lazy` says whether there can be any."""

    def __init__(self) -> None:
        self.lazy = False
        self._random = random.Random(0)
        self._patience = 0.0
        self._last_lane: object = None
        self._tasks: dict[Task, None] = {}  # a set that keeps its order: the same seed makes the same choices
        self._ready: list[Task] = []
        self._bytes = 0
        self._calls: Counter[int] = Counter()  # how many tasks each call has given, while somebody traces

    def switch(self, lazy: bool, seed: int) -> None:
        """Go on in this mode, with the choices of this seed. Nothing may be waiting."""
        self.lazy, self._random, self._last_lane = lazy, random.Random(seed), None

    def add(
        self, lane: object, operation: Operation | None, after: Iterable[Task], site: str, clock: Clock,
        node: int | None = None,
    ) -> Task:  # fmt: skip
        """Line up an operation behind the tasks `after`; runs others first if too many wait."""
        while len(self._tasks) >= MAX_TASKS or (self._tasks and self._bytes >= MAX_BYTES):
            self._step()
        task = Task(lane, operation, site, clock, node)
        for earlier in dict.fromkeys(one for one in after if not one.done):
            earlier.followers.append(task)
            task.blockers += 1
        self._tasks[task] = None
        self._calls[task.origin.call] += 1
        self._bytes += task.watch.nbytes if task.watch else 0
        if not task.blockers:
            self._ready.append(task)
        return task

    def finish(self, task: Task) -> None:
        """Run until `task` is done, and whatever the choice falls on before."""
        self._patience = self._random.choice(PATIENCE)
        while not task.done:
            self._step()

    def finish_all(self) -> None:
        """Run everything."""
        self._patience = self._random.choice(PATIENCE)
        while self._tasks:
            self._step()

    def advance(self) -> None:
        """Run a few tasks: time passes between two questions whether something is done."""
        for _ in range(min(self._random.randint(1, 4), len(self._tasks))):
            self._step()

    def _step(self) -> None:
        task = self._choose()
        self._ready.remove(task)
        del self._tasks[task]
        self._call_is_nearer_its_end(task.origin.call)
        self._last_lane, task.done = task.lane, True
        try:
            self._run(task)
        except Failure:
            self.clear()
            raise
        finally:  # after an interrupt, too, nobody may wait for this task
            self._release(task)

    def waits_for(self, call: int) -> bool:
        """Whether something that the call of this number gave has not run."""
        return call in self._calls

    def _call_is_nearer_its_end(self, call: int) -> None:
        self._calls[call] -= 1
        if not self._calls[call]:
            del self._calls[call]

    def _release(self, task: Task) -> None:
        """Let those that waited for `task` alone be chosen."""
        for follower in task.followers:
            follower.blockers -= 1
            if not follower.blockers and not follower.done:
                self._ready.append(follower)
        task.followers = []

    def _choose(self) -> Task:
        if len(self._ready) == 1:
            return self._ready[0]
        same = [task for task in self._ready if task.lane is self._last_lane]
        return self._random.choice(same if same and self._random.random() < self._patience else self._ready)

    def _run(self, task: Task) -> None:
        if task.operation is None:
            return
        try:
            if task.watch:
                self._bytes -= task.watch.nbytes
                task.watch.end()
            activity.run(task.operation, task.origin)
            fences.after_operation(task.operation.name)
        except Failure:
            if state.report:
                state.report = replace(state.report, text=f"{state.report.text}; given to {task.lane} at {task.site}")
            raise

    def clear(self) -> None:
        """Forget everything: the context is dead or gone."""
        for task in self._tasks:
            task.done = True  # nobody must wait for it
            if task.watch:
                task.watch.drop()
        self._tasks.clear()
        self._calls.clear()
        self._ready.clear()
        self._bytes, self._last_lane = 0, None


pending = Pending()
on_context_end.append(pending.clear)
os.register_at_fork(after_in_child=pending.clear)


@atexit.register
def _at_exit() -> None:
    """A program may end without waiting; what it gave to a stream runs all the same, and a fault in it is told."""
    with context.lock:
        if state.sticky is not SUCCESS:
            return
        try:
            pending.finish_all()
        except Failure:
            print(f"cutaway: work that nobody waited for failed: {state.report}", file=sys.stderr)
