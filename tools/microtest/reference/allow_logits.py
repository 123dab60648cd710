"""Reference of allow_logits: a mask of bits, spelled out."""

from __future__ import annotations

from functools import partial

import numpy as np

from tools.microtest.harness import Case, Problem


def _problem(rows: tuple[int, ...], vocab: int, rng: np.random.Generator) -> Problem:
    words = -(-vocab // 32)
    allowed = rng.random((max(rows) + 1 if max(rows) >= 0 else 1, 32 * words)) < 0.3  # bits past the end are set too
    masks = np.packbits(allowed, axis=1, bitorder="little").view(np.uint32)
    logits = rng.standard_normal((len(rows), vocab)).astype(np.float32)
    impossible = np.array([~allowed[row, :vocab] if row >= 0 else np.zeros(vocab, bool) for row in rows])
    return Problem(
        inputs={"logits": logits, "rows": np.array(rows, np.int32), "masks": masks},
        expected={"logits": np.where(impossible, 0, logits).astype(np.float64)},
        impossible={"logits": impossible},
    )


def cases() -> list[Case]:
    return [
        Case("S1-V1", partial(_problem, (0,), 1)),
        Case("S4-V1000", partial(_problem, (1, -1, 0, 1), 1000)),
        Case("S2-V49152", partial(_problem, (-1, 0), 49152)),
        Case("S3-V50257", partial(_problem, (2, 0, -1), 50257)),
    ]
