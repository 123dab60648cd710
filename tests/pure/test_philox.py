"""The Philox twin against the known answers of Random123 (kat_vectors, philox4x32 10), and sampling with it."""

from __future__ import annotations

import numpy as np
import pytest

from tests.statistics import assert_chi_square
from tools.microtest.reference.argmax import argmax
from tools.microtest.reference.gumbel_sample import gumbel_noise, gumbel_scores
from tools.microtest.reference.philox import philox4x32_10
from tools.microtest.reference.random_normal import random_normal

KNOWN_ANSWERS = [
    ([0, 0, 0, 0], 0, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    ([0xFFFFFFFF] * 4, 0xFFFFFFFF_FFFFFFFF, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    (
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        0x299F31D0_A4093822,
        [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
    ),
]


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN_ANSWERS)
def test_known_answers(counter: list[int], key: int, answer: list[int]) -> None:
    assert philox4x32_10(counter, key).tolist() == answer


def test_noise_depends_on_seed_position_and_token_alone() -> None:
    seeds, positions = np.array([7, 7, 8], dtype=np.uint64), np.array([1, 2, 1], dtype=np.int32)
    noise = gumbel_noise(seeds, positions, 103)
    assert np.array_equal(noise[:1], gumbel_noise(seeds[:1], positions[:1], 103))
    assert np.array_equal(noise[:, :50], gumbel_noise(seeds, positions, 50))
    assert len(np.unique(noise)) == noise.size


def test_noise_is_gumbel() -> None:
    """Mean 0.57722 (Euler's constant) and variance pi^2/6, each within 5 standard errors; always finite."""
    count = 1_000_000
    noise = gumbel_noise(np.array([3], dtype=np.uint64), np.array([5], dtype=np.int32), count)[0]
    assert np.isfinite(noise).all()
    variance = np.pi**2 / 6
    assert abs(noise.mean() - np.euler_gamma) < 5 * np.sqrt(variance / count)
    # The fourth central moment of a Gumbel variable is (3 + 12/5) * variance^2.
    assert abs(noise.var() - variance) < 5 * variance * np.sqrt(4.4 / count)


def test_random_weights_are_normal() -> None:
    """Mean 0, variance 1 and fourth moment 3, neighbours uncorrelated, each within 5 standard errors; always finite."""
    count = 1_000_000
    values = random_normal(count, seed=3, subsequence=5)
    assert np.isfinite(values).all() and np.abs(values).max() < 6.8
    for power, moment, variance in ((1, 0, 1), (2, 1, 2), (4, 3, 96)):  # of z, z^2 and z^4
        assert abs((values**power).mean() - moment) < 5 * np.sqrt(variance / count)
    for lag in (1, 2, 4):
        assert abs((values[lag:] * values[:-lag]).mean()) < 5 / np.sqrt(count - lag)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_samples_follow_softmax(temperature: float) -> None:
    rows, vocab = 20_000, 31
    logits = np.random.default_rng(11).uniform(-1.0, 1.0, vocab).astype(np.float32)
    seeds = np.arange(rows, dtype=np.uint64)
    positions = np.zeros(rows, dtype=np.int32)
    temperatures = np.full(rows, temperature, dtype=np.float32)
    tokens = argmax(gumbel_scores(np.tile(logits, (rows, 1)), temperatures, seeds, positions))
    assert_chi_square(tokens, logits, temperature)
