"""Whether drawn tokens follow the distribution that they should."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

ONE_IN_A_MILLION = 4.75  # standard deviations of a normal distribution: the upper tail beyond is 1.0e-6


def assert_chi_square(tokens: NDArray, logits: NDArray, temperature: float) -> None:
    """Assert that `tokens` fit softmax(logits / temperature)."""
    scaled = logits.astype(np.float64) / temperature
    weights = np.exp(scaled - scaled.max())
    assert_follows(tokens, weights / weights.sum())


def assert_follows(tokens: NDArray, probabilities: NDArray) -> None:
    """Assert that `tokens` fit `probabilities`, by Pearson's chi-square test; what has none must not come at all.

    Chance passes the limit about once in a million. It comes from Wilson and Hilferty's approximation ("The
    Distribution of Chi-Square", 1931): the cube root of a chi-square over its k degrees of freedom is nearly normal,
    with mean 1 - 2/(9k) and variance 2/(9k). Every category must expect at least 5 draws, as the test asks.
    """
    counts = np.bincount(tokens, minlength=len(probabilities))
    assert len(counts) == len(probabilities), f"token {len(counts) - 1} is not in the vocabulary"
    possible = probabilities > 0
    assert not counts[~possible].any(), f"impossible tokens were drawn: {np.flatnonzero(counts * ~possible)}"
    expected, counts = len(tokens) * probabilities[possible], counts[possible]
    assert expected.min() >= 5, f"too few draws: a category expects {expected.min():.1f}"
    statistic = float(np.sum((counts - expected) ** 2 / expected))
    degrees = max(len(expected) - 1, 1)
    limit = degrees * (1 - 2 / (9 * degrees) + ONE_IN_A_MILLION * np.sqrt(2 / (9 * degrees))) ** 3
    assert statistic <= limit, f"chi-square {statistic:.1f} with {degrees} degrees of freedom; the limit is {limit:.1f}"
