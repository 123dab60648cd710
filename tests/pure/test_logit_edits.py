"""Penalties, bias and bans as lists, against their definitions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.logit_edits import LogitEdits
from engine.sampling_params import SamplingParams
from tests.sampling_oracle import edited_logits
from tools.microtest.rounding import F32_EPS

VOCAB = 40
STOP_IDS = frozenset({38, 39})
LOGITS = np.random.default_rng(3).normal(0, 3, VOCAB).astype(np.float32)
PROMPT = [1, 2, 3, 2]

tokens = st.lists(st.integers(0, 9), max_size=12)
words = st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=3), max_size=3)


def make(prompt: list[int], words: list[list[int]] | None = None, **fields: Any) -> LogitEdits:
    params = SamplingParams(bad_words=["a word"] * bool(words), **fields)
    params.bad_words_token_ids = tuple(map(tuple, words or []))
    return LogitEdits(params, prompt, STOP_IDS)


def apply(edits: LogitEdits, token_ids: list[int], position: int | None = None) -> np.ndarray:
    """float64[V]: LOGITS after the list, as the kernel applies it."""
    count = edits.prepare(token_ids, len(token_ids) if position is None else position)
    names = {"tokens": np.int32, "biases": np.float32, "divisors": np.float32, "penalties": np.float32}
    host: dict[str, Any] = {name: np.zeros(count + 2, dtype) for name, dtype in names.items()}
    assert not count or edits.write(host, 1) == count + 1
    rows = [host[name][1 : count + 1].tolist() for name in names]
    assert len(set(rows[0])) == count, "a token has two rows, and the kernel no order"
    out = LOGITS.astype(np.float64)
    for token, bias, divisor, penalty in zip(*rows, strict=True):
        x = out[token] + bias
        out[token] = (x / divisor if x > 0 else x * divisor) - penalty
    return out


@given(
    prompt=tokens, answer=tokens, words=words, repetition=st.floats(0.5, 2, width=32),
    frequency=st.floats(-2, 2, width=32), presence=st.floats(-2, 2, width=32), min_tokens=st.integers(0, 4),
    bias=st.dictionaries(st.integers(0, VOCAB - 1), st.floats(-100, 100, width=32), max_size=4),
)  # fmt: skip
def test_penalties_follow_their_definition(
    prompt: list[int], answer: list[int], words: list[list[int]], repetition: float, frequency: float,
    presence: float, min_tokens: int, bias: dict[int, float],
) -> None:  # fmt: skip
    """After every token, one list for the whole request: what was worked out for the last token must not linger."""
    fields: dict[str, Any] = {"repetition_penalty": repetition, "frequency_penalty": frequency}
    fields |= {"presence_penalty": presence, "min_tokens": min_tokens, "logit_bias": bias, "stop_token_ids": [7]}
    params = SamplingParams(**fields)
    params.bad_words_token_ids = tuple(map(tuple, words))
    edits = make(prompt, words, **fields)
    for length in range(len(answer) + 1):
        expected = edited_logits(LOGITS, params, prompt, answer[:length], sorted(STOP_IDS))
        got = apply(edits, prompt + answer[:length])
        # Stored are rounded numbers: bias, divisor, and the sum of penalties, of at most 26.
        error = 4 * F32_EPS * (2 * np.abs(np.where(np.isfinite(expected), expected, 0)) + 300)
        assert (np.isneginf(got) == np.isneginf(expected)).all()
        finite = np.isfinite(expected)
        assert (np.abs(got[finite] - expected[finite]) <= error[finite]).all()


def test_min_tokens_asks_the_position_and_not_the_tokens() -> None:
    """The host may not have read them yet."""
    edits = make(PROMPT, min_tokens=2)
    for generated, ban in ((-2, True), (0, True), (1, True), (2, False), (3, False)):
        assert np.isneginf(apply(edits, PROMPT, len(PROMPT) + generated)[[38, 39]]).all() == ban
    assert edits.prepare(PROMPT, len(PROMPT) + 2) == 0, "nothing is left to be launched for"


def test_a_bad_word_does_not_begin_in_the_prompt() -> None:
    edits = make(PROMPT, [[2, 5]])
    assert not np.isneginf(apply(edits, PROMPT)).any()
    assert np.flatnonzero(np.isneginf(apply(edits, [*PROMPT, 2]))).tolist() == [5]
    assert not np.isneginf(apply(edits, [*PROMPT, 2, 4])).any()


@pytest.mark.parametrize("size", [1, 16, 17, 40])
def test_lists_grow(size: int) -> None:
    bias = {token: float(token) for token in range(size)}
    expected = edited_logits(LOGITS, SamplingParams(logit_bias=bias), [], [])
    assert apply(make([], logit_bias=bias), []).tolist() == expected.tolist()
