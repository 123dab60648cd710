"""Every quantised type, bit for bit, against a reference written from the layouts and against the gguf package."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType

from bindings.dtypes import float32_to_bf16
from engine.gguf_model import dequantize, is_supported
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


@pytest.mark.parametrize("kind", [kind for kind in GGMLQuantizationType if is_supported(kind)], ids=lambda k: k.name)
def test_blocks_come_out_as_from_the_gguf_package(kind: GGMLQuantizationType) -> None:
    """Any bytes are valid blocks. Row by row the package's way, against ours in one go; the same bits, NaN or not."""
    values, nbytes = gguf.GGML_QUANT_SIZES[kind]
    rows = np.random.default_rng(int(kind)).integers(0, 256, (33, 5 * nbytes), np.uint8)
    with np.errstate(invalid="ignore", over="ignore"):
        expected = gguf.dequantize(rows, kind).astype(np.float32)
        got = dequantize(rows.reshape(-1), kind)
    assert got.shape == (33 * 5 * values,)
    assert np.array_equal(got, expected.reshape(-1), equal_nan=True)


def test_types_beyond_the_promised_ones_are_let_in_where_the_package_knows_them() -> None:
    assert all(is_supported(GGMLQuantizationType[name]) for name in (*TYPES, "Q2_K", "Q3_K", "IQ4_XS", "TQ1_0"))
    assert not any(is_supported(GGMLQuantizationType[name]) for name in ("Q8_K", "I8", "I32", "F64"))
