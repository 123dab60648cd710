"""How far the engine's logits may be from the exact ones.

The engine rounds to bf16 wherever it writes activations to memory, a dozen times a layer; everything else is float32
and does not count beside that. No formula over the model's shape tells what becomes of these errors: attention
multiplies them by the size of its scores, and a trained model damps some directions and stretches others. So they are
measured on the model itself by Monte Carlo arithmetic (Parker, "Monte Carlo Arithmetic", 1997): the exact forward pass
is repeated with a random error of the size of a rounding at each place where the engine rounds, and the spread of the
logits is the error to expect of any arithmetic that rounds at these places. docs/accuracy.md derives the numbers below,
and tells what was measured.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from engine.config import ModelConfig
from tests.reference.llama_forward import Arithmetic, Doubles, Weights, llama_forward

BF16_FRACTION_BITS = 7

# The tests compare some 10^7 logits and differences of logits, and a normal variable exceeds 5.3 standard deviations
# once in 10^7. But the errors of one position are not independent: most come from a few directions of the hidden state,
# so that all of them together are up to twice as large, or half as large, as on average. Hence a half more than 5.3.
SIGMAS = 8.0


def random_rounding(random: np.random.Generator) -> Callable[[Doubles], Doubles]:
    """Adds to each value what rounding it to bf16 might: anything up to half a unit in the last place, either way."""

    def perturb(values: Doubles) -> Doubles:
        _, exponents = np.frexp(values)  # |value| = m * 2^exponent with 1/2 <= m < 1
        ulp = np.where(values == 0, 0.0, np.ldexp(1.0, exponents - 1 - BF16_FRACTION_BITS))
        return values + ulp * random.uniform(-0.5, 0.5, values.shape)

    return perturb


def sample_errors(
    config: ModelConfig, weights: Weights, token_ids: Sequence[int], positions: Sequence[int], samples: int = 8
) -> tuple[Doubles, Doubles]:
    """The exact logits [P, V] at `positions`, and what was added to them in each of K samples, [K, P, V]."""
    rows = list(positions)
    exact = llama_forward(config, weights, token_ids, Arithmetic())[rows]
    errors = np.empty((samples, *exact.shape))
    for sample in range(samples):
        arithmetic = Arithmetic(random_rounding(np.random.default_rng(sample)))
        errors[sample] = llama_forward(config, weights, token_ids, arithmetic)[rows] - exact
    return exact, errors


def error_scale(errors: Doubles, lm_head: Doubles) -> Doubles:
    """Standard deviation [P] of the error of a logit, for a row of lm_head [V, H] of length 1.

    A logit is the product of the hidden state with its row, so its error is proportional to the row's length. That lets
    all V logits of a position speak for one number.
    """
    lengths = np.linalg.norm(lm_head, axis=1)
    return np.sqrt(np.mean((errors / lengths) ** 2, axis=(0, 2)))


def logit_tolerance(scale: Doubles, lm_head: Doubles) -> Doubles:
    """Largest error [P, V] to accept of a logit; `scale` [P] is `error_scale`'s."""
    return SIGMAS * np.outer(scale, np.linalg.norm(lm_head, axis=1))


def separation(logits: Doubles, errors: Doubles, lm_head: Doubles) -> Doubles:
    """How surely the highest logit of each position is the highest, [P], in standard deviations of the closest race.

    The lead over logit j is a product with the difference of two rows, and so is its error. Above SIGMAS every engine
    that is right must find the same token; below, either may be.
    """
    return np.array([_separation(logits[p], errors[:, p], lm_head) for p in range(len(logits))])


def _separation(logits: Doubles, errors: Doubles, lm_head: Doubles) -> float:
    """As `separation` for one position: logits [V], errors [K, V]."""
    top = int(np.argmax(logits))
    others = np.arange(len(logits)) != top
    distances = np.linalg.norm(lm_head[others] - lm_head[top], axis=1)
    leads = logits[top] - logits[others]
    lead_errors = errors[:, [top]] - errors[:, others]
    deviation = np.sqrt(np.mean((lead_errors / distances) ** 2))
    return float(np.min(leads / (deviation * distances)))
