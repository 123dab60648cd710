"""What a call gives to a stream: a kernel, a copy, a fill, a matrix product, a graph, the record of an event."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol


@dataclass(frozen=True)
class Span:
    """`nbytes` from `address` on that an operation reads, or writes."""

    address: int
    nbytes: int
    written: bool

    def meets(self, other: Span) -> bool:
        """Whether the two have a byte in common."""
        return self.address < other.address + other.nbytes and other.address < self.address + self.nbytes


class Watch(Protocol):
    """Looks after something of the caller's while an operation waits. It holds `nbytes` of host memory meanwhile."""

    nbytes: int

    def end(self) -> None:
        """The operation is about to run. Raises Failure, and has killed the context, if the caller was too quick."""

    def drop(self) -> None:
        """The operation will never run."""


class Operation:
    """Work for a stream. `run` does it; the others have something to do for some kinds only.

    `what` it is for who wants to know when it ran (activity.py); "" for what takes no time.
    """

    what: ClassVar[str] = ""

    @property
    def name(self) -> str:
        """For reports."""
        raise NotImplementedError

    def run(self) -> None:
        """Do it. Raises Failure, and has killed the context, if it faults."""
        raise NotImplementedError

    def keep(self) -> None:
        """Copy every argument that the caller may change or free after the call."""

    def check(self) -> None:
        """Fail the call if memory or code that this needs is gone."""

    def spans(self) -> Sequence[Span]:
        """The memory that it is known to touch, byte for byte. A kernel's is not known: its pointers have no sizes."""
        return ()

    def watch(self) -> Watch | None:
        """Begin to look after what the caller must leave alone until this has run."""
        return None

    def nodes(self) -> Nodes | None:
        """What a graph consists of; None if this is no graph."""
        return None


# A graph's operations, each with the numbers of those before it that it waits for.
Nodes = Sequence[tuple[Operation, frozenset[int]]]
