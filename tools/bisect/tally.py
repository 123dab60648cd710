"""What was compared, folded: one row for each operation of the model, whichever layer or step it ran in."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tools.bisect.compare import Comparison
from tools.bisect.lockstep import Pair
from tools.bisect.messages import Output
from tools.bisect.place import Place, place_of


@dataclass
class Row:
    """An output of an operation: how often it was compared, and the largest share of its tolerance, and where."""

    part: str
    op: str
    output: str
    times: int = 0
    elements: int = 0
    differing: int = 0
    share: float = 0.0
    where: Place | None = None

    def add(self, comparison: Comparison, place: Place) -> None:
        self.times += 1
        self.elements += comparison.elements
        self.differing += comparison.differing
        if comparison.share > self.share or self.where is None:
            self.share, self.where = comparison.share, place


class Tally:
    """The rows in the order in which they first ran."""

    def __init__(self) -> None:
        self._rows: dict[tuple[str, str, str], Row] = {}
        self.operations = 0

    def add(self, pair: Pair) -> None:
        """Take in an operation."""
        self.operations += bool(pair.comparisons)
        place = place_of(pair.b.label)
        for name, comparison in pair.comparisons.items():
            key = place.part, pair.b.op, _row_name(pair.b.op, name, pair.b.outputs[name])
            self._rows.setdefault(key, Row(*key)).add(comparison, place)

    def __iter__(self) -> Iterator[Row]:
        return iter(self._rows.values())

    @property
    def elements(self) -> int:
        """Values compared in all."""
        return sum(row.elements for row in self)

    @property
    def differing(self) -> int:
        """Values that were not the same bit for bit."""
        return sum(row.differing for row in self)


def shown_name(name: str, output: Output) -> str:
    """An output as a person knows it: `out` of a product is the activation that it writes."""
    return output.tensor.removeprefix("activations.") if name == "out" else name


def _row_name(op: str, name: str, output: Output) -> str:
    return "weights" if op == "random_normal" else shown_name(name, output)
