"""A side of tools.bisect inside the test's own process, in a thread: the same talk over a pipe, without the start."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import Pipe
from typing import Any

from tools.bisect import worker
from tools.bisect.messages import (
    Done,
    Explain,
    Explanation,
    Failed,
    Index,
    Job,
    Loaded,
    Loading,
    Operation,
    Proceed,
)


class ThreadedEngine:
    """What tools.bisect.workers.Engine is, in a thread. One at a time: the recorder is the process's."""

    def __init__(self, job: Job) -> None:
        self._connection, self._theirs = Pipe()
        self._inbox = deque[Any]()
        self._thread = threading.Thread(target=self._run, args=[job], daemon=True)
        self._thread.start()

    def _run(self, job: Job) -> None:
        try:
            self._theirs.send(worker.outcome(job, self._theirs))
        except worker.GONE:
            pass  # the test has seen enough
        finally:
            self._theirs.close()

    def _receive(self) -> Any:
        message = self._inbox.popleft() if self._inbox else self._connection.recv()
        assert not isinstance(message, Failed), message
        return self._receive() if isinstance(message, (Loading, Loaded)) else message

    def next(self) -> Operation | Done:
        message: Operation | Done = self._receive()
        return message

    def put_back(self, message: Operation | Done) -> None:
        self._inbox.appendleft(message)

    def proceed(self, message: Proceed) -> None:
        self._connection.send(message)

    def explain(self, output: str, index: Index) -> Explanation:
        self._connection.send(Explain(output, index))
        answer: Explanation = self._receive()
        return answer

    def close(self) -> None:
        self._connection.close()
        self._thread.join(timeout=60)
        assert not self._thread.is_alive(), "the engine does not notice that nobody listens"


@contextmanager
def threaded_engine(job: Job) -> Iterator[ThreadedEngine]:
    """An engine that ends with the block."""
    engine = ThreadedEngine(job)
    try:
        yield engine
    finally:
        engine.close()


class Played:
    """Side a from memory: the operations of an engine that has run before."""

    def __init__(self, operations: list[Operation]) -> None:
        self._operations = deque(operations)

    def meet(self, operation: Operation) -> Operation | None:
        mine = self._operations.popleft()
        assert (mine.label, mine.op) == (operation.label, operation.op)
        return mine

    def exact(self, output: str, index: Index) -> None:
        """Only what it wrote is kept."""

    def end(self) -> None:
        assert not self._operations

    def proceed(self) -> None:
        pass


def operations_of(job: Job) -> list[Operation]:
    """All that an engine runs, left alone."""
    found = []
    with threaded_engine(job) as engine:
        while isinstance(operation := engine.next(), Operation):
            found.append(operation)
            engine.proceed(Proceed())
    return found
