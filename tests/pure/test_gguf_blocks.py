"""Every quantised type, bit for bit, against a reference written from the layouts and against the gguf package."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType

from bindings.dtypes import float32_to_bf16
from engine.gguf_model import dequantize
from tests.quantized_model import random_blocks
from tests.reference.gguf_blocks import BLOCKS, dequantized, expected_bf16

TYPES = ["F32", "F16", "BF16", *BLOCKS]
SUBNORMAL, SMALLEST, LARGEST = 2.0**-24, 2.0**-14, 65504.0
SCALES = {
    "usual": [0.01, -0.02, 0.5, 1.0, -3.0],
    "zero": [0.0, -0.0],
    "subnormal": [SUBNORMAL, -SUBNORMAL, 3 * SUBNORMAL, 1023 * SUBNORMAL],
    "extreme": [SMALLEST, -SMALLEST, LARGEST, -LARGEST, 0.0, SUBNORMAL],
}


@pytest.mark.parametrize("scales", SCALES)
@pytest.mark.parametrize("kind", TYPES)
def test_blocks_are_what_their_layout_says(kind: str, scales: str) -> None:
    random = np.random.default_rng(sorted(SCALES).index(scales))
    stored = random_blocks(kind, 40, np.array(SCALES[scales], np.float16), random)
    if kind == "Q6_K":
        stored.reshape(-1, 210)[:, 192:208] = random.integers(0, 256, (40, 16), np.uint8)
    with np.errstate(invalid="ignore", over="ignore"):
        got = float32_to_bf16(dequantize(stored, GGMLQuantizationType[kind]))
        package = gguf.dequantize(stored.reshape(1, -1), GGMLQuantizationType[kind])
    expected = expected_bf16(dequantized(stored, kind))
    assert np.array_equal(got, expected)
    assert np.array_equal(got, float32_to_bf16(package.reshape(-1)))
    if scales != "zero":
        assert np.unique(got).size > 8, "a few values would compare little"


def test_a_half_of_infinity_or_nan_comes_out_without_a_warning(recwarn: pytest.WarningsRecorder) -> None:
    for kind in BLOCKS:
        scales = np.array([np.inf, np.nan], np.float16)
        values = dequantize(random_blocks(kind, 8, scales, np.random.default_rng(0)), GGMLQuantizationType[kind])
        assert not np.isfinite(values).all()
    assert len(recwarn) == 0
