"""How far an engine in bf16 may lie from activations that were recorded in float32.

The engine goes on with the recorded values after each comparison, so an error is that of one sublayer, and not the
depth's (docs/accuracy.md: without that it grows as the square root of the depth). u = 2^-8 is bf16's unit roundoff.

- A residual is r = (before + attention) + mlp, where all three were taken over as bf16 and both sums are rounded: u for
  each of |before|, |attention|, |before + attention|, |mlp| and |r|, which together are at most
  3 u (|r| + |attention| + |mlp|).
- A norm w r / rms(r) of such a residual moves by its error times w / rms(r), by the relative error of rms(r), which is
  at most |error| / |r| as lengths of rows, and by u of itself for taking over what it is compared with. Its weight w is
  read off the recording: the norm over r / rms(r), in the row in which r is largest.
- Inside a sublayer the engine's errors are followed from operation to operation (noise.py), and SIGMAS deviations of
  what they come to are allowed.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import sqrt

import numpy as np
from numpy.typing import NDArray

from tools.microtest.rounding import BF16_EPS

# Normal errors would exceed 5.3 deviations once in 10^7. But those of one position come from few roundings that many
# neurons see, and are larger or smaller together: of 4.7 million values of SmolLM2-135M (two texts) the worst was 7.7
# deviations off. 12 leaves half as much again for other models and texts.
SIGMAS = 12.0
TINY = 1e-300  # in place of a divisor of zero: what it divides is zero, too


class RecordedError:
    """Of the arrays of a recording, by their names in the file."""

    def __init__(self, arrays: Mapping[str, NDArray]) -> None:
        self._arrays = arrays
        self._known: dict[str, NDArray[np.float64]] = {}

    def is_known(self, name: str) -> bool:
        """Whether the file has what its tolerance is derived from."""
        layer, _, kind = name.rpartition(".")
        needed = [name]
        if kind == "residual":
            needed += [f"{layer}.attention", f"{layer}.mlp"]
        if kind in ("input_norm", "final_norm"):
            stream = self._stream_before(name)
            return name in self._arrays and self.is_known(stream)
        return all(one in self._arrays for one in needed)

    def of(self, name: str) -> NDArray[np.float64]:
        """The largest error [T, H] of the embedding, a residual or a norm."""
        if name not in self._known:
            kind = name.rpartition(".")[2]
            rule = {"embedding": self._of_embedding, "residual": self._of_residual}.get(kind, self._of_norm)
            self._known[name] = rule(name)
        return self._known[name]

    def _magnitude(self, name: str) -> NDArray[np.float64]:
        return np.abs(self._arrays[name].astype(np.float64))

    def _of_embedding(self, name: str) -> NDArray[np.float64]:
        return BF16_EPS * self._magnitude(name)

    def _of_residual(self, name: str) -> NDArray[np.float64]:
        layer = name.removesuffix("residual")
        residual, attention, mlp = (self._magnitude(layer + part) for part in ("residual", "attention", "mlp"))
        return 3 * BF16_EPS * (residual + attention + mlp)

    def _of_norm(self, name: str) -> NDArray[np.float64]:
        before = self._stream_before(name)
        normed, stream, error = self._magnitude(name), self._magnitude(before), self.of(before)
        lengths = np.maximum(np.linalg.norm(stream, axis=1, keepdims=True), TINY)
        rms = lengths / sqrt(stream.shape[1])
        columns, largest = np.arange(stream.shape[1]), stream.argmax(axis=0)
        weight = normed[largest, columns] * rms[largest, 0] / np.maximum(stream[largest, columns], TINY)
        moved = np.linalg.norm(error, axis=1, keepdims=True) / lengths
        return error * weight / rms + (moved + BF16_EPS) * normed

    def _stream_before(self, name: str) -> str:
        """What a norm reads: the residual stream after the layer before it."""
        if name == "final_norm":
            layers = [int(one.split(".")[1]) for one in self._arrays if one.startswith("layers.")]
            return f"layers.{max(layers, default=0)}.residual"
        layer = int(name.split(".")[1])
        return f"layers.{layer - 1}.residual" if layer else "embedding"
