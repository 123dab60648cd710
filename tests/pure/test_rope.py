"""The rotary table against direct formulas, and Llama 3.1's frequencies against transformers' own."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from engine.config import ModelConfig, RopeScaling
from engine.errors import UsageError
from engine.rope import inverse_frequencies, rope_table
from tests.tiny_model import read_config
from tools.microtest.comparator import assert_close
from tools.microtest.rounding import F32_EPS

LLAMA3 = RopeScaling("llama3", 8.0, 1.0, 4.0, 8192)
# transformers 5.23, LlamaRotaryEmbedding with Llama-3.1-8B's settings: {pair: radians a position}, in float32.
LLAMA31_8B = {
    0: 1.0,
    1: 0.8146172165870667,
    20: 0.016560440883040428,
    28: 0.0032114461064338684,
    29: 0.0021665706299245358,
    32: 0.0005248460220173001,
    34: 0.0001785077911335975,
    35: 9.556212171446532e-05,
    36: 7.784655463183299e-05,
    63: 3.068925877869333e-07,
}


@pytest.fixture
def config(tmp_path: Path) -> ModelConfig:
    return read_config(tmp_path)


@pytest.mark.parametrize("head_dim", [64, 80, 96, 128])
@pytest.mark.parametrize("theta", [1e4, 5e5])
def test_rows_are_cosines_then_sines(config: ModelConfig, head_dim: int, theta: float) -> None:
    table = rope_table(replace(config, head_dim=head_dim, rope_theta=theta), 40)
    expected = np.empty((40, head_dim))
    for position in range(40):
        for i in range(head_dim // 2):
            angle = position * theta ** (-2 * i / head_dim)
            expected[position, i] = math.cos(angle)
            expected[position, i + head_dim // 2] = math.sin(angle)
    assert table.dtype == np.float32
    # One rounding to float32 of a value of at most 1; float64's own errors are 1e-9 of that.
    assert_close(table, expected, 1.01 * F32_EPS)


def test_late_positions_are_as_exact_as_early_ones(config: ModelConfig) -> None:
    table = rope_table(config, 131072)
    angles = 131071 * 1e4 ** (-np.arange(32) / 32)
    # float64 angles of up to 131071 are off by at most half a unit in the last place, 1.5e-11.
    assert_close(table[-1], np.concatenate([np.cos(angles), np.sin(angles)]), F32_EPS + 1e-10)


def test_linear_scaling_stretches_positions(config: ModelConfig) -> None:
    stretched = rope_table(replace(config, rope_scaling=RopeScaling("linear", 4.0)), 64)
    # Division by 4 is exact, so every fourth row is an unscaled one up to the last rounding of float64.
    assert_close(stretched[::4], rope_table(config, 16).astype(np.float64), F32_EPS)


def test_llama3_scaling_agrees_with_transformers(config: ModelConfig) -> None:
    llama31 = replace(config, head_dim=128, rope_theta=5e5, rope_scaling=LLAMA3)
    frequencies = inverse_frequencies(llama31)
    pairs = list(LLAMA31_8B)
    expected = np.array([LLAMA31_8B[pair] for pair in pairs])
    # transformers computes in float32: a power, some five operations, and a blend whose difference of two numbers may
    # triple a relative error; 32 roundings cover that.
    assert_close(frequencies[pairs], expected, 32 * F32_EPS * expected)


def test_llama3_scaling_by_its_definition(config: ModelConfig) -> None:
    llama3 = replace(config, rope_theta=5e5, rope_scaling=LLAMA3)
    unscaled, scaled = inverse_frequencies(replace(llama3, rope_scaling=None)), inverse_frequencies(llama3)
    regions = set()
    for plain, got in zip(unscaled, scaled, strict=True):
        wavelength = 2 * math.pi / plain
        if wavelength < 8192 / 4.0:
            region, expected = "kept", plain
        elif wavelength > 8192 / 1.0:
            region, expected = "divided", plain / 8.0
        else:
            smooth = (8192 / wavelength - 1.0) / (4.0 - 1.0)
            region, expected = "blended", (1 - smooth) * plain / 8.0 + smooth * plain
        regions.add(region)
        assert math.isclose(got, expected, rel_tol=1e-13)
    assert regions == {"kept", "divided", "blended"}


def test_divisors_as_gguf_stores_them_give_the_same_table(config: ModelConfig) -> None:
    llama3 = replace(config, rope_theta=5e5, rope_scaling=LLAMA3)
    divisors = inverse_frequencies(replace(llama3, rope_scaling=None)) / inverse_frequencies(llama3)
    stored = RopeScaling("divisors", divisors=tuple(float(d) for d in divisors))
    table = rope_table(replace(llama3, rope_scaling=stored), 100)
    assert_close(table, rope_table(llama3, 100).astype(np.float64), 2 * F32_EPS)


@pytest.mark.parametrize("max_positions", [0, -1])
def test_a_table_needs_a_position(config: ModelConfig, max_positions: int) -> None:
    with pytest.raises(UsageError, match=f"max_positions is {max_positions}; it must be at least 1"):
        rope_table(config, max_positions)
