"""Whether drawn tokens follow the distribution that they should."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def assert_chi_square(tokens: NDArray, logits: NDArray, temperature: float) -> None:
    """Assert that `tokens` fit softmax(logits / temperature), by Pearson's chi-square test.

    The statistic has mean k and variance 2k for k = categories - 1; 6 standard deviations above the mean are passed
    by chance about once in a million. Every category must expect at least 5 draws, as the test asks.
    """
    scaled = logits.astype(np.float64) / temperature
    weights = np.exp(scaled - scaled.max())
    expected = len(tokens) * weights / weights.sum()
    assert expected.min() >= 5, f"too few draws: a category expects {expected.min():.1f}"
    counts = np.bincount(tokens, minlength=len(logits))
    statistic = float(np.sum((counts - expected) ** 2 / expected))
    degrees = len(logits) - 1
    limit = degrees + 6 * np.sqrt(2 * degrees)
    assert statistic <= limit, f"chi-square {statistic:.1f} with {degrees} degrees of freedom; the limit is {limit:.1f}"
