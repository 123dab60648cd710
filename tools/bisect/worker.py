"""One side: a process with an engine of its own, which stops after every operation until the tool says how to go on.

A process drives one device, and compiles its kernels from one folder: so each side needs its own. The tool starts it as

    python -m tools.bisect.worker DESCRIPTOR

where the descriptor is this side's end of a pipe. What comes over it first is a Job.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bindings.trace import recorder
from tools import cli
from tools.bisect.bounds import EXACT, Bound, Bounder
from tools.bisect.messages import (
    Done,
    Explain,
    Explanation,
    Failed,
    Job,
    Loaded,
    Loading,
    Operation,
    Output,
)
from tools.bisect.noise import Noise
from tools.bisect.operands import Operands, Part, part

GONE = (EOFError, BrokenPipeError, ConnectionResetError)  # what a pipe says when its other end was closed


class Launched:
    """An operation that was launched; several, where a matrix product goes in blocks of rows."""

    def __init__(self, event: Mapping[str, Any], operands: Operands) -> None:
        self.event, self.operands = event, operands
        self.parts: dict[str, Part] = {}
        self.bounds: Mapping[str, Bound] = {}

    def continued_by(self, event: Mapping[str, Any]) -> bool:
        """Whether `event` is the next block of the same matrix product (Blas.linear)."""
        if self.event["op"] != "gemm" or event.get("op") != "gemm":
            return False
        mine, its = self.operands.tensors, recorder.operands
        ends = {name: mine[name].address + mine[name].nbytes == its[name].address for name in ("out", "a")}
        return all(ends.values()) and mine["b"].address == its["b"].address

    def report(self, bounder: Bounder, noise: Noise | None) -> Operation:
        """What it wrote, and how exact that must be."""
        event, operands = self.event, self.operands
        self.parts = {name: part(event["op"], name, operands) for name in operands.outputs}
        self.bounds = bounder.bounds(event["op"], operands)
        deviation = None if noise is None else noise.follow(event["op"], operands)
        outputs = {name: self._output(name, deviation) for name in self.parts}
        site, kernel, source = event["site"], event.get("kernel", ""), event.get("source", "")
        return Operation(event["op"], kernel, source, event["label"], site, outputs)

    def _output(self, name: str, noise: NDArray[np.float64] | None) -> Output:
        tensor, bound = self.operands.tensors[name], self.bounds.get(name, EXACT)
        values = self.parts[name].read()
        return Output(
            values, tensor.dtype.name, tensor.buffer.name, bound.relative, bound.absolute, bound.lengths, noise
        )

    def explain(self, asked: Explain) -> Explanation:
        """One element of what it wrote."""
        exact = self.bounds.get(asked.output, EXACT).exact
        value = None if exact is None else exact(asked.index)
        return Explanation(self.parts[asked.output].place(asked.index), value)


class Lockstep:
    """Listens to the recorder. After each operation it tells the tool what was written, and waits.

    Told is an operation when the next call is about to be made: until then another block of it may come.
    """

    def __init__(self, connection: Connection, noise: bool = False) -> None:
        self._connection, self._bounder = connection, Bounder()
        self._noise = Noise() if noise else None
        self._last: Launched | None = None
        self._next: Launched | None = None

    def before(self, event: Mapping[str, Any]) -> None:
        """Called by the recorder."""
        self._next = None
        if self._last is not None and self._last.continued_by(event):
            self._last.operands.grow({name: recorder.operands[name].shape[0] for name in ("out", "a")})
            return
        self.settle()
        if "op" in event:
            self._next = Launched(event, _operands(event))

    def after(self, event: Mapping[str, Any]) -> None:
        """Called by the recorder."""
        if self._next is not None:
            self._last, self._next = self._next, None

    def note(self, note: Mapping[str, Any]) -> None:
        """Called by the recorder: a step of the engine is nothing to compare."""

    def settle(self) -> None:
        """Tell of the last operation, and do what the tool says."""
        launched, self._last = self._last, None
        if launched is None:
            return
        self._connection.send(launched.report(self._bounder, self._noise))
        while isinstance(answer := self._connection.recv(), Explain):
            self._connection.send(launched.explain(answer))
        for name, values in answer.values.items():
            launched.parts[name].write(values)

    def finish(self) -> None:
        """Tell of the very last operation."""
        with recorder.ignoring():
            self.settle()


def _operands(event: Mapping[str, Any]) -> Operands:
    params = {**event.get("params", {}), "transpose_b": event.get("sizes", {}).get("transpose_b", False)}
    return Operands(recorder.operands, event["roles"], params)


def run(job: Job, connection: Connection) -> None:
    """Load the model and run the prompts."""
    from bindings.kernel import take_kernels_from
    from engine import LLM, SamplingParams

    if job.kernels is not None:
        take_kernels_from(job.kernels)

    def progress(stage: str, done: int, total: int, unit: str) -> None:
        connection.send(Loading(stage, done, total, unit))

    lockstep = Lockstep(connection, job.noise)
    params = SamplingParams(temperature=0, max_tokens=job.max_tokens, ignore_eos=True)
    with recorder.listening(lockstep), LLM(progress=progress, **job.engine) as llm:
        lockstep.finish()
        connection.send(Loaded(llm.device.name, llm.config.num_layers))
        llm.generate(as_prompts(job.prompts), params, use_tqdm=False)
        lockstep.finish()


def as_prompts(prompts: Sequence[str] | Sequence[list[int]]) -> Any:
    """Token ids by the name that the engine takes them under."""
    return [prompt if isinstance(prompt, str) else {"prompt_token_ids": prompt} for prompt in prompts]


def outcome(job: Job, connection: Connection) -> Done | Failed:
    """Run the job; how that ended."""
    try:
        run(job, connection)
        return Done()
    except GONE:
        raise
    except Exception as error:
        explained = cli.explain(error)
        if explained is None or job.debug:
            traceback.print_exc()
        line = explained[0].removeprefix("error: ") if explained else f"{type(error).__name__}: {error}"
        return Failed(line)


def main(argv: Sequence[str]) -> int:
    connection = Connection(int(argv[0]))
    try:
        job: Job = connection.recv()
        connection.send(outcome(job, connection))
    except GONE:
        return cli.BROKEN_PIPE
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
