"""How far a slow stage is, on stderr: a bar on a terminal, one line a stage elsewhere."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from tqdm import tqdm


class Progress:
    """What the engine calls while it fetches, loads and compiles. A `with` leaves no bar behind.

    progress("loading weights", 12, 272, "tensors")
    """

    def __init__(self, quiet: bool = False, stream: TextIO | None = None) -> None:
        self.quiet = quiet
        self.stream = sys.stderr if stream is None else stream
        self.stage = ""  # the stage told last, and whether it has ended
        self.ended = True
        self.bar: tqdm | None = None

    def __call__(self, stage: str, done: int, total: int, unit: str) -> None:
        """`done` of `total` units of `stage`; unit is "bytes", "kernels" or "tensors"."""
        if self.quiet:
            return
        if stage != self.stage or (self.ended and done < total):
            self.close()
            self.stage, self.ended = stage, False
            self.begin(stage, total, unit)
        if self.bar is not None:
            self.bar.update(done - self.bar.n)
        if done >= total:
            self.ended = True
            self.close()

    def begin(self, stage: str, total: int, unit: str) -> None:
        if not self.stream.isatty():
            print(f"{stage} ({amount(total, unit)})", file=self.stream, flush=True)
            return
        from tqdm import tqdm

        is_bytes = unit == "bytes"
        self.bar = tqdm(
            total=total,
            desc=stage,
            unit="B" if is_bytes else f" {unit}",
            unit_scale=is_bytes,
            leave=False,
            dynamic_ncols=True,
            file=self.stream,
        )

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
        self.bar = None

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def amount(total: int, unit: str) -> str:
    """A total as a person says it: (105454432, "bytes") -> "105.5 MB"."""
    if unit != "bytes":
        return f"{total} {unit.removesuffix('s') if total == 1 else unit}"
    return f"{total / 1e6:.1f} MB" if total < 1e9 else f"{total / 1e9:.2f} GB"
