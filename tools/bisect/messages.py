"""What a side and the tool tell each other over their pipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Index = tuple[int, ...]


@dataclass(frozen=True)
class Job:
    """What a side runs: `prompts` (texts, or token ids) to `max_tokens` tokens each, on an engine made with `engine`.

    kernels: the copy of cuda_src that its kernels come from; None: the project's own. noise: whether to follow what
    roundings do (noise.py).
    """

    engine: Mapping[str, Any]
    prompts: Sequence[str] | Sequence[list[int]]
    max_tokens: int
    kernels: Path | None = None
    debug: bool = False
    noise: bool = False


@dataclass(frozen=True)
class Loading:
    """How far a slow stage is, as tools/progress.py takes it."""

    stage: str
    done: int
    total: int
    unit: str


@dataclass(frozen=True)
class Loaded:
    """The model is on the device, and the prompts run next."""

    device: str
    num_layers: int


@dataclass(frozen=True)
class Lengths:
    """Of out[M, N] = x[M, K] w[N, K]^T: the lengths |x| of the rows [M] of x and |w| [N] of w.

    Two vectors in place of the matrix |x| |w|, which would be larger than the product itself. `error`: the product's
    own error as a share of |x| |w|.
    """

    rows: NDArray[np.float64]
    columns: NDArray[np.float64]
    error: float

    def at(self, where: tuple[NDArray, ...]) -> NDArray[np.float64]:
        """|x| |w| at these places of the product."""
        lengths: NDArray[np.float64] = self.rows[where[0]] * self.columns[where[1]]
        return lengths


@dataclass(frozen=True)
class Output:
    """What an operation wrote to one of its tensors, as far as it promises to have written it.

    values: in the dtype's carrier, of any shape; its leading axis is rows where the operation has rows.
    tensor: the name of the memory, `activations.qkv`.
    relative, absolute, lengths: how far the value may lie from what exact arithmetic gives for the same inputs:
        relative * |value| + absolute, which is broadcast to the values; of a matrix product also lengths.error |x| |w|.
    noise: of a product, the deviation of its error where roundings before it are followed (noise.py).
    compared: False where side b is to go on with these values, whatever it has.
    """

    values: NDArray
    dtype: str
    tensor: str
    relative: float = 0.0
    absolute: NDArray[np.float64] | float = 0.0
    lengths: Lengths | None = None
    noise: NDArray[np.float64] | None = None
    compared: bool = True


@dataclass(frozen=True)
class Operation:
    """An operation that has run: the side waits for `Proceed`, or `Explain` before that."""

    op: str
    kernel: str  # its entry; "" of a matrix product
    source: str  # its .cu file; likewise
    label: str
    site: str
    outputs: Mapping[str, Output]


@dataclass(frozen=True)
class Proceed:
    """Go on. `values`: what to put in the place of outputs first, in the shape and the carrier that they came in."""

    values: Mapping[str, NDArray] = field(default_factory=dict)


@dataclass(frozen=True)
class Explain:
    """Tell more of one element of an output of the operation that waits. Answered by an `Explanation`."""

    output: str
    index: Index


@dataclass(frozen=True)
class Explanation:
    """place: the element as an index into the kernel's tensor. exact: what float64 gives for the same inputs."""

    place: str
    exact: float | None


@dataclass(frozen=True)
class Done:
    """The side has run all it was asked to."""


@dataclass(frozen=True)
class Failed:
    """The side came to an end of its own: one line for the user."""

    line: str
