"""The processes of the sides, and the talk with them. A `with` leaves none of them behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Sequence
from multiprocessing import Pipe
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from bindings.errors import CutawayError
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
from tools.progress import Progress

_PROJECT = Path(__file__).resolve().parents[2]


class SideError(CutawayError):
    """A side could not go on: its name, and why."""


class Worker:
    """A side's process. `name`: "side b (cuda)"."""

    def __init__(self, name: str, job: Job) -> None:
        self.name, self.inbox = name, deque[Any]()
        self.loaded: Loaded | None = None
        self.done = False
        self.seen = "it began"  # the last that was heard of it
        self.connection, theirs = Pipe()
        paths = [str(_PROJECT), *filter(None, [os.environ.get("PYTHONPATH")])]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tools.bisect.worker", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            start_new_session=True,  # Ctrl-C is for the tool, which ends its sides itself
        )
        theirs.close()
        self.send(job)

    def send(self, message: object) -> None:
        """Raises SideError where nobody is there any more."""
        try:
            self.connection.send(message)
        except OSError:
            raise self.death() from None

    def death(self) -> SideError:
        """The error of a process that ended without a word."""
        code = self.process.wait()
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        return SideError(f"{self.name} died ({how}) after {self.seen}: run it alone with python -m tools.generate")

    def take(self) -> None:
        """Read one message into the inbox. Raises SideError for the side's own last words."""
        try:
            message = self.connection.recv()
        except (EOFError, OSError):
            raise self.death() from None
        if isinstance(message, Failed):
            raise SideError(f"{self.name}: {message.line}")
        if isinstance(message, Operation):
            self.seen = f"{message.label or 'loading'} / {message.op}"
        self.done = isinstance(message, Done)
        self.inbox.append(message)

    def kill(self) -> None:
        """End the process and what it started (a compiler, say), whatever they do, and wait for its end."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.connection.close()


class Workers:
    """The engines of a comparison; leaving the `with` ends them."""

    def __init__(self, jobs: Sequence[tuple[str, Job]], progress: Progress) -> None:
        self._progress, self._workers = progress, list[Worker]()
        try:
            for name, job in jobs:
                self._workers.append(Worker(name, job))
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        for worker in self._workers:
            worker.kill()

    def __enter__(self) -> list[Engine]:
        return [Engine(worker, self) for worker in self._workers]

    def __exit__(self, *_: object) -> None:
        self.close()

    def receive(self, worker: Worker) -> Any:
        """The next message of one side; others' are kept for them, but for their end, which is everybody's."""
        while not worker.inbox:
            ready = wait([one.connection for one in self._workers if not one.done])
            for one in self._workers:
                if one.connection in ready:
                    one.take()
                    self._sort_out(one)
        return worker.inbox.popleft()

    def _sort_out(self, worker: Worker) -> None:
        """What is told of loading goes to the user."""
        message = worker.inbox[-1]
        if isinstance(message, Loading) and worker is self._workers[-1]:  # two bars at once could not be read
            self._progress(f"{worker.name}: {message.stage}", message.done, message.total, message.unit)
        if isinstance(message, Loaded):
            worker.loaded = message
        if isinstance(message, (Loading, Loaded)):
            worker.inbox.pop()


class Engine:
    """An engine that runs one operation at a time."""

    def __init__(self, worker: Worker, workers: Workers) -> None:
        self._worker, self._workers = worker, workers

    @property
    def name(self) -> str:
        """As it is called in errors: `side b (cuda)`."""
        return self._worker.name

    @property
    def pid(self) -> int:
        """The number of its process."""
        return self._worker.process.pid

    @property
    def loaded(self) -> Loaded | None:
        """What it told when its model was loaded; None before that."""
        return self._worker.loaded

    def next(self) -> Operation | Done:
        """What it ran, and waits with; or its end. Raises SideError."""
        message: Operation | Done = self._workers.receive(self._worker)
        return message

    def put_back(self, message: Operation | Done) -> None:
        """Have `next` give this once more."""
        self._worker.inbox.appendleft(message)

    def proceed(self, message: Proceed) -> None:
        """Let it run its next operation."""
        self._worker.send(message)

    def explain(self, output: str, index: Index) -> Explanation:
        """More of one element of what it waits with."""
        self._worker.send(Explain(output, index))
        answer: Explanation = self._workers.receive(self._worker)
        return answer
