"""Runs two sides operation by operation: side a leads, side b is compared, and goes on with a's values.

A result is known by where it is written, under which label: `activations.attended` in layer 3's attention. So ways that
compute it by other operations can be compared too, as soon as both have it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from bindings.dtypes import encode
from bindings.errors import CutawayError
from tools.bisect.compare import Comparison, compare, dtype_named, host, same_rows
from tools.bisect.messages import Done, Explanation, Index, Operation, Output, Proceed
from tools.bisect.place import names
from tools.bisect.recording import RECORDED
from tools.bisect.workers import Engine

# Their outputs are read by the next operation of the same way alone: another way need not have them.
INNER = frozenset({"decode_attention"})


@dataclass(frozen=True)
class Pair:
    """An operation of both sides, and how their outputs compare, by name."""

    a: Operation
    b: Operation
    comparisons: Mapping[str, Comparison]

    @property
    def worst(self) -> str:
        """The output with the largest share of its tolerance."""
        return max(self.comparisons, key=lambda name: self.comparisons[name].share)

    @property
    def agrees(self) -> bool:
        """Whether every output is within tolerance."""
        return all(comparison.agrees for comparison in self.comparisons.values())


@dataclass(frozen=True)
class Tie:
    """The likeliest token of a row differs; where the logits agree within tolerance, either is right."""

    label: str
    row: int
    a: int
    b: int


@dataclass
class Outcome:
    """How a comparison ended: where the sides parted, if they did, and what was met on the way.

    explanation: of the worst element there, by side b; exact_of_a: float64's value from side a's inputs.
    suspects: side b's operations since the last one that agreed, that where they parted included.
    """

    parted: Pair | None = None
    explanation: Explanation | None = None
    exact_of_a: float | None = None
    suspects: list[Operation] = field(default_factory=list)
    ties: list[Tie] = field(default_factory=list)
    stopped: bool = False


class Leader(Protocol):
    """Side a: another engine, or a recording."""

    def meet(self, operation: Operation) -> Operation | None:
        """Its own results of what side b has run; None where it has none."""

    def exact(self, output: str, index: Index) -> float | None:
        """What float64 gives for an element of what it has met, from its own inputs; None where it does not know."""

    def end(self) -> None:
        """Side b has ended."""

    def proceed(self) -> None:
        """Both have been compared."""


class LeadingEngine:
    """An engine as side a."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def meet(self, operation: Operation) -> Operation | None:
        """Runs it up to what side b has. Raises CutawayError where it has nothing of the kind."""
        mine = self._engine.next()
        while isinstance(mine, Operation) and mine.op in INNER and mine.op != operation.op:
            self.proceed()
            mine = self._engine.next()
        if isinstance(mine, Operation) and results(mine) == results(operation):
            return mine
        self._engine.put_back(mine)
        if operation.op in INNER:
            return None
        raise apart(mine, operation)

    def exact(self, output: str, index: Index) -> float | None:
        """What float64 gives from its inputs."""
        return self._engine.explain(output, index).exact

    def end(self) -> None:
        """Raises CutawayError where it has not ended as well."""
        mine = self._engine.next()
        if isinstance(mine, Operation):
            raise apart(mine, Done())

    def proceed(self) -> None:
        """Let it run its next operation."""
        self._engine.proceed(Proceed())


def apart(a: Operation | Done, b: Operation | Done) -> CutawayError:
    """The error of two sides that do not write the same results in the same order."""
    words = [f"{one.op} at {one.label!r}" if isinstance(one, Operation) else "nothing more" for one in (a, b)]
    return CutawayError(f"the sides cannot be compared: where a runs {words[0]}, b runs {words[1]}")


def results(operation: Operation) -> tuple[str, frozenset[str]]:
    """Where an operation's results are found: its label, and the memory that it writes."""
    return operation.label, frozenset(output.tensor for output in operation.outputs.values())


class Lockstep:
    """Runs side b against side a. `free`: b keeps its own values, but for the tokens that both are to read."""

    def __init__(self, leader: Leader, engine: Engine, free: bool = False, stop_after: str | None = None) -> None:
        self._leader, self._engine, self._free, self._stop_after = leader, engine, free, stop_after
        self.outcome = Outcome()

    def pairs(self) -> Iterator[Pair]:
        """Every operation that both sides have, as it runs, up to the first one that parts (`free`: to the end)."""
        while isinstance(operation := self._engine.next(), Operation):
            mine, forced = self._leader.meet(operation), dict[str, NDArray]()
            self.outcome.suspects.append(operation)
            if mine is not None:
                pair = _pair(mine, operation)
                yield pair
                if not pair.agrees and not self._free:
                    return self._part(pair)
                self._agree(pair)
                forced = self._forced(pair)
            if self._stop_after and names(self._stop_after, operation.label, operation.op):
                self.outcome.stopped = True
                return
            if mine is not None:
                self._leader.proceed()
            self._engine.proceed(Proceed(forced))
        self._leader.end()
        if self._stop_after:
            raise CutawayError(f"--stop-after {self._stop_after!r}: no operation of this run is called so")

    def _agree(self, pair: Pair) -> None:
        if pair.comparisons:
            self.outcome.suspects.clear()
        self._note_ties(pair)

    def _part(self, pair: Pair) -> None:
        comparison = pair.comparisons[pair.worst]
        assert comparison.worst is not None, "what parts differs somewhere"
        self.outcome.parted = pair
        self.outcome.exact_of_a = self._leader.exact(pair.worst, comparison.worst.index)
        explanation = self._engine.explain(pair.worst, comparison.worst.index)
        if pair.a.op == RECORDED:  # the engine's inputs were its own: what is exact for them says nothing
            explanation = Explanation(explanation.place, None)
        self.outcome.explanation = explanation

    def _forced(self, pair: Pair) -> dict[str, NDArray]:
        """What side b goes on with where it differs: all that side a has; `free`: tokens alone."""
        return {
            name: _taken_over(pair.a.outputs[name], pair.b.outputs[name])
            for name, output in pair.a.outputs.items()
            if _differs(pair, name) and (output.dtype == "i32" or not self._free)
        }

    def _note_ties(self, pair: Pair) -> None:
        if pair.b.op != "gemm" or not pair.b.label.endswith("lm head"):
            return
        best = [host(output).argmax(axis=1) for output in same_rows(pair.a.outputs["out"], pair.b.outputs["out"])]
        for row in np.flatnonzero(best[0] != best[1]).tolist():
            self.outcome.ties.append(Tie(pair.b.label, row, int(best[0][row]), int(best[1][row])))


def _pair(a: Operation, b: Operation) -> Pair:
    """Compare what both have. Two ways of one result may each make errors that the other does not have: where the
    operations differ, that doubles the tolerance."""
    factor = 1.0 if a.op in (b.op, RECORDED) else 2.0
    shared = [name for name, output in a.outputs.items() if name in b.outputs and output.compared]
    return Pair(a, b, {name: compare(*same_rows(a.outputs[name], b.outputs[name]), factor) for name in shared})


def _differs(pair: Pair, name: str) -> bool:
    return name in pair.b.outputs and (name not in pair.comparisons or pair.comparisons[name].differing > 0)


def _taken_over(a: Output, b: Output) -> NDArray:
    """Side b's values with side a's in their place, in b's type."""
    values, rows = b.values.copy(), min(len(a.values), len(b.values))
    values[:rows] = a.values[:rows] if a.dtype == b.dtype else encode(host(a)[:rows], dtype_named(b.dtype))
    return values
