"""How errors grow through the layers of two sides that are left alone (--free): figures, no verdict.

docs/accuracy.md estimates the relative error of an engine's residual stream as EPSILON sqrt(1 + sum over the sublayers
so far of (1 + 6 f)), where f is the share of its mean square that a sublayer's update makes up. Two engines whose
roundings have nothing in common lie sqrt(2) times that apart; two whose sums differ in their last bits alone get there
after some layers, since a rounding that falls the other way is a whole rounding. Measured errors are up to twice the
estimate, on trained models too.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import numpy as np

from tools.bisect.compare import host, same_rows
from tools.bisect.lockstep import Pair
from tools.bisect.noise import EPSILON
from tools.bisect.place import Place, place_of


@dataclass(frozen=True)
class Drift:
    """|a - b| / |a| of the residual stream before a sublayer, or of the logits; `estimate`: of two bf16 engines."""

    place: Place
    tensor: str
    apart: float
    estimate: float


class DriftWatch:
    """Collects the drift of one run, operation by operation."""

    def __init__(self) -> None:
        self.drifts: list[Drift] = []
        self._variance = 0.0  # of the estimate, in units of EPSILON^2
        self._update = 0.0  # mean square of the last sublayer's update

    def add(self, pair: Pair) -> None:
        """Take in an operation: what is no part of the stream is passed over."""
        place = place_of(pair.b.label)
        if pair.b.op == "embedding" and place.part == "embedding":
            self._variance = 1.0
        elif pair.b.op == "gemm" and pair.b.outputs["out"].tensor.startswith("activations.update"):
            self._update = _mean_square(host(pair.b.outputs["out"]))
        elif pair.b.op == "gemm" and place.part == "lm head":
            self._note(pair, place, "out", "logits")
        elif pair.b.op == "add_rmsnorm" and "residual" in pair.comparisons:
            share = self._update / max(_mean_square(host(pair.b.outputs["residual"])), 1e-300)
            self._variance += 1 + 6 * min(share, 1.0)
            self._note(pair, place, "residual", "residual")

    def _note(self, pair: Pair, place: Place, name: str, tensor: str) -> None:
        a, b = (host(output).astype(np.float64) for output in same_rows(pair.a.outputs[name], pair.b.outputs[name]))
        apart = sqrt(_mean_square(a - b) / max(_mean_square(a), 1e-300))
        self.drifts.append(Drift(place, tensor, apart, EPSILON * sqrt(2 * self._variance)))


def _mean_square(values: np.ndarray) -> float:
    return float(np.mean(np.square(values, dtype=np.float64)))
