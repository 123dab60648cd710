"""Rotary position embedding: the table of cosines and sines that rope_kv_write reads.

Pair i of a head (elements i and i + D/2) turns by the angle position * theta^(-2i/D). Su et al., "RoFormer"
(2021). Scaling slows the turning down, so that positions beyond the first training length give angles seen
in training: linear (Chen et al., "Extending Context Window of Large Language Models via Positional
Interpolation", 2023) slows every pair; Llama 3.1 only those that turn less than once or a few times within
the original context.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from engine.config import ModelConfig, RopeScaling
from engine.errors import UsageError


def rope_table(config: ModelConfig, max_positions: int) -> NDArray[np.float32]:
    """The table, float32 [R, D] with R = max_positions and D = head_dim: D/2 cosines, then D/2 sines a row.

    Computed in float64 and rounded once: a float32 angle is off by 5e-4 rad at position 8192.
    Raises UsageError when max_positions is below 1.
    """
    if max_positions < 1:
        raise UsageError(f"max_positions is {max_positions}; it must be at least 1")
    angles = np.outer(np.arange(max_positions, dtype=np.float64), inverse_frequencies(config))
    half = config.head_dim // 2
    table = np.empty((max_positions, config.head_dim), np.float32)
    table[:, :half] = np.cos(angles)
    table[:, half:] = np.sin(angles)
    return table


def inverse_frequencies(config: ModelConfig) -> NDArray[np.float64]:
    """float64 [D/2]: radians that each pair turns from one position to the next, scaling included."""
    exponents = np.arange(0, config.head_dim, 2, dtype=np.float64) / config.head_dim
    unscaled = config.rope_theta**-exponents
    scaling = config.rope_scaling
    if scaling is None:
        return unscaled
    if scaling.type == "linear":
        return unscaled / scaling.factor
    if scaling.type == "divisors":
        return unscaled / np.array(scaling.divisors, np.float64)
    return _llama3(unscaled, scaling)


def _llama3(unscaled: NDArray[np.float64], scaling: RopeScaling) -> NDArray[np.float64]:
    """Llama 3.1's rule, by how often a pair turns within the original context.

    `high_freq_factor` times or more: kept. `low_freq_factor` or fewer: divided by `factor`. Between: blended.
    """
    turns = scaling.original_max_position_embeddings * unscaled / (2 * np.pi)
    kept = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    kept = np.clip(kept, 0.0, 1.0)
    return kept * unscaled + (1 - kept) * unscaled / scaling.factor
