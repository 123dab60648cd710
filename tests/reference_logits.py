"""What transformers computed for the models of tests/tiny_llama.py, and how close to it an engine in bf16 must come."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tests.logit_error import logit_tolerance
from tests.tiny_llama import TinyLlama

FIXTURE = Path(__file__).parent / "fixtures" / "tiny_llama.npz"


@dataclass(frozen=True)
class ReferenceLogits:
    """Of one prompt: logits [P, V] after the tokens at `positions` [P], and the largest error allowed of each."""

    token_ids: list[int]
    positions: NDArray[np.int64]
    logits: NDArray[np.float32]
    tolerance: NDArray[np.float64]


@cache
def _arrays() -> dict[str, NDArray]:
    with np.load(FIXTURE) as file:
        return dict(file)


def load_reference_logits(model: TinyLlama, length: int) -> ReferenceLogits:
    """The prompt of `length` tokens. Fails if the fixture was made for other weights or another prompt."""
    arrays, prefix = _arrays(), f"{model.name}/{length}"
    remedy = f"{FIXTURE.name} was made for another {model.name}: run make_reference_fixtures.py"
    assert int(arrays[f"{model.name}/checksum"]) == model.checksum, remedy
    token_ids = arrays[f"{prefix}/token_ids"].tolist()
    assert token_ids == model.prompt(length), remedy
    tolerance = logit_tolerance(arrays[f"{prefix}/error_scale"], model.lm_head)
    return ReferenceLogits(token_ids, arrays[f"{prefix}/positions"], arrays[f"{prefix}/logits"], tolerance)
