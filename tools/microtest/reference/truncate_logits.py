"""Reference of truncate_logits: a sort and a cumulative sum in float64.

What stays keeps its bits, the rest is -inf, so every element must be equal. Near a threshold a token could fall on
either side by rounding alone: the cases keep away from that.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from tools.microtest.harness import Case, Problem

# How far top_p keeps from every sum that a kept set can have. expf is off by some 2^-22 of each mass, a sum of masses
# as much; V = 2^17 roundings to 2^-40 of the largest mass add 2^-24 of it; float32 top_p * total, 2^-24.
MARGIN = 4e-7


def _sums(x: np.ndarray, temperature: float) -> tuple[np.ndarray, np.ndarray]:
    """The distinct values, largest first, and the share of the mass that lies at or above each."""
    values, owner = np.unique(-x, return_inverse=True)
    mass = np.exp((x - x.max()) / temperature)
    return -values, np.cumsum(np.bincount(owner, mass)) / mass.sum()


def _above_min_p_and_top_k(x: np.ndarray, temperature: float, top_k: int, min_p: float) -> np.ndarray:
    kept = x > -np.inf
    if min_p > 0:
        threshold = x.max() + np.log(min_p) * temperature
        assert min_p == 1 or np.abs(x[kept] - threshold).min() > 1e-5, "min_p falls on a token"
        kept &= x >= threshold
    if 0 < top_k < kept.sum():
        kept &= x >= np.sort(x[kept])[-top_k]
    return kept


def _numbers(logits: np.ndarray) -> np.ndarray:
    return np.where(np.isnan(logits), -np.inf, logits).astype(np.float64)


def _settled(logits: np.ndarray, temperature: float, top_k: int, top_p: float, min_p: float) -> float:
    """The top_p nearest to the one wanted that is not on the edge of a token."""
    x = _numbers(logits)
    if temperature == 0 or top_p == 1:
        return top_p
    kept = _above_min_p_and_top_k(x, temperature, int(top_k), min_p)
    edges = np.concatenate([[0.0], _sums(x[kept], temperature)[1]])
    wide = np.diff(edges) > 4 * MARGIN
    middles = ((edges[1:] + edges[:-1]) / 2)[wide]
    return float(middles[np.abs(middles - top_p).argmin()])


def _kept(logits: np.ndarray, temperature: float, top_k: int, top_p: float, min_p: float) -> np.ndarray:
    """bool[V]: the tokens that stay."""
    x = _numbers(logits)
    kept = _above_min_p_and_top_k(x, temperature, top_k, min_p)
    if top_p < 1:
        values, sums = _sums(x[kept], temperature)
        assert np.abs(sums - top_p).min() > MARGIN, "top_p falls on a token"
        kept &= x >= values[np.searchsorted(sums, top_p)]
    return kept


def truncated(logits: np.ndarray, params: np.ndarray) -> np.ndarray:
    """float32[S, V] of params float64[S, 4]: temperature, top_k, top_p, min_p."""
    out = logits.copy()
    for s, (temperature, top_k, top_p, min_p) in enumerate(params):
        if temperature > 0 and (top_k > 0 or top_p < 1 or min_p > 0):
            out[s, ~_kept(logits[s], temperature, int(top_k), top_p, min_p)] = -np.inf
    return out


def _problem(logits: np.ndarray, wanted: list[tuple[float, ...]]) -> Problem:
    logits = logits.astype(np.float32)
    params = np.array(wanted, dtype=np.float32).astype(np.float64)
    params[:, 2] = np.float32([_settled(row, *given) for row, given in zip(logits, params, strict=True)])
    temperature, top_k, top_p, min_p = params.astype(np.float32).T
    inputs = {"logits": logits, "temperature": temperature, "top_k": top_k.astype(np.int32)}
    inputs |= {"top_p": top_p, "min_p": min_p}
    expected = truncated(logits, params)
    impossible = np.isneginf(expected)
    return Problem(
        inputs, {"logits": np.where(impossible, 0, expected).astype(np.float64)}, impossible={"logits": impossible}
    )


PARAMS = [
    (1.0, 0, 1.0, 0.0),  # nothing
    (1.0, 5, 1.0, 0.0),
    (0.7, 0, 0.9, 0.0),
    (1.3, 0, 1.0, 0.05),
    (0.8, 40, 0.95, 0.02),  # all at once
    (0.0, 5, 0.5, 0.5),  # greedy: untouched
    (1.0, 1, 1.0, 0.0),
    (2.0, 10**6, 0.99, 0.0),  # more than there are
    (1.0, 0, 1e-6, 0.0),  # the likeliest alone
    (0.5, 0, 1.0, 1.0),  # likewise
]


def _random(vocab: int, rng: np.random.Generator) -> Problem:
    return _problem(3 * rng.standard_normal((len(PARAMS), vocab)), PARAMS)


def _ties(rng: np.random.Generator) -> Problem:
    """Many equal logits: the whole group at the threshold stays."""
    return _problem(rng.integers(-4, 4, (len(PARAMS), 1000)) * 0.37, PARAMS)


def _special(rng: np.random.Generator) -> Problem:
    """Masked tokens, one finite token, values that differ in their last bit, a wide range, NaN, nothing possible."""
    logits = 3 * rng.standard_normal((6, 777)).astype(np.float32)
    logits[0, ::2] = -np.inf
    logits[1, 1:] = -np.inf
    logits[2] = np.nextafter(np.float32(-1), np.float32(0))
    logits[2, 100:300] = -1
    logits[3] *= 20
    logits[4, 5:300] = np.nan
    logits[5] = -np.inf
    return _problem(logits, [PARAMS[4], PARAMS[4], (1.0, 577, 1.0, 0.0), PARAMS[4], PARAMS[4], PARAMS[1]])


def cases() -> list[Case]:
    sizes = [7, 33, 1024, 4099, 49152, 128256]
    return [Case(f"V{v}", partial(_random, v)) for v in sizes] + [Case("ties", _ties), Case("special", _special)]
