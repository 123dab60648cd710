"""The references themselves: NumPy against transformers, and the error bound between too tight and too loose."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from engine.config import ModelConfig
from tests.logit_error import SIGMAS, error_scale, random_rounding, separation
from tests.reference.llama_forward import Arithmetic, llama_forward
from tests.reference_logits import ReferenceLogits, load_reference_logits
from tests.tiny_llama import MODELS, PROMPT_LENGTHS, TinyLlama
from tools.microtest.comparator import assert_close
from tools.microtest.rounding import round_to_bf16

Weights = dict[str, NDArray]
Change = Callable[[ModelConfig, Weights], tuple[ModelConfig, Weights]]
ENGINE_ROUNDING = Arithmetic(lambda values: round_to_bf16(values).astype(np.float64))

each_model = pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)


def deviations(model: TinyLlama, length: int, arithmetic: Arithmetic) -> NDArray[np.float64]:
    """Errors of the logits at the fixture's positions, in standard deviations."""
    reference = load_reference_logits(model, length)
    logits = llama_forward(model.config, model.weights, reference.token_ids, arithmetic)
    return in_deviations(logits[reference.positions], reference)


def in_deviations(logits: NDArray, reference: ReferenceLogits) -> NDArray[np.float64]:
    return (logits - reference.logits) / reference.tolerance * SIGMAS


@each_model
@pytest.mark.parametrize("length", PROMPT_LENGTHS)
def test_numpy_agrees_with_transformers(model: TinyLlama, length: int) -> None:
    reference = load_reference_logits(model, length)
    logits = llama_forward(model.config, model.weights, reference.token_ids, Arithmetic())
    # transformers adds up in float32: some hundred terms a sum, a dozen sums one after the other.
    assert_close(logits[reference.positions], reference.logits.astype(np.float64), 1e-5 * np.abs(logits).max())


@each_model
def test_rounding_to_nearest_stays_within_the_bound_and_near_what_it_is_made_of(model: TinyLlama) -> None:
    errors = [deviations(model, length, ENGINE_ROUNDING) for length in PROMPT_LENGTHS]
    assert max(np.abs(part).max() for part in errors) <= SIGMAS
    # Errors of one position hang together, so that a model has about two hundred independent ones: 1 within a half.
    assert 0.5 <= np.sqrt(np.mean(np.concatenate(errors) ** 2)) <= 1.5


def test_stored_error_scale_can_be_measured_again() -> None:
    model = MODELS["gqa1-d64"]
    reference = load_reference_logits(model, 37)
    exact = llama_forward(model.config, model.weights, reference.token_ids, Arithmetic())
    samples = []
    for seed in range(100, 108):
        sampled = Arithmetic(random_rounding(np.random.default_rng(seed)))
        samples.append(llama_forward(model.config, model.weights, reference.token_ids, sampled) - exact)
    again = error_scale(np.array(samples)[:, reference.positions], model.lm_head)
    stored = reference.tolerance[:, 0] / (SIGMAS * np.linalg.norm(model.lm_head[0]))
    assert 0.7 <= np.median(again / stored) <= 1.4


def without_rope_scaling(config: ModelConfig, weights: Weights) -> tuple[ModelConfig, Weights]:
    return replace(config, rope_scaling=None), weights


def with_another_base(config: ModelConfig, weights: Weights) -> tuple[ModelConfig, Weights]:
    return replace(config, rope_theta=config.rope_theta * 1.5), weights


def with_pairs_of_neighbours(config: ModelConfig, weights: Weights) -> tuple[ModelConfig, Weights]:
    def interleaved(matrix: NDArray) -> NDArray:
        heads = matrix.reshape(-1, 2, config.head_dim // 2, config.hidden_size)
        return heads.swapaxes(1, 2).reshape(matrix.shape)

    changed = {name: interleaved(w) for name, w in weights.items() if "q_proj" in name or "k_proj" in name}
    return config, weights | changed


def with_a_norm_forgotten(config: ModelConfig, weights: Weights) -> tuple[ModelConfig, Weights]:
    name = "model.layers.1.post_attention_layernorm.weight"
    return config, weights | {name: np.ones_like(weights[name])}


def with_gate_and_up_swapped(config: ModelConfig, weights: Weights) -> tuple[ModelConfig, Weights]:
    gate, up = (f"model.layers.0.mlp.{name}_proj.weight" for name in ("gate", "up"))
    return config, weights | {gate: weights[up], up: weights[gate]}


def with_one_row_wrong(config: ModelConfig, weights: Weights) -> tuple[ModelConfig, Weights]:
    name = "model.layers.1.self_attn.o_proj.weight"
    changed = weights[name].copy()
    changed[3] = changed[4]
    return config, weights | {name: changed}


MISTAKES: list[Change] = [
    with_another_base,
    with_pairs_of_neighbours,
    with_a_norm_forgotten,
    with_gate_and_up_swapped,
    with_one_row_wrong,
]


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.__name__)
@each_model
def test_a_mistake_is_beyond_the_bound(model: TinyLlama, mistake: Change) -> None:
    reference = load_reference_logits(model, 83)
    config, weights = mistake(model.config, model.weights)
    logits = llama_forward(config, weights, reference.token_ids, Arithmetic())
    assert np.abs(in_deviations(logits[reference.positions], reference)).max() > 2 * SIGMAS


@pytest.mark.parametrize("name", [name for name, model in MODELS.items() if model.rope_scaling])
def test_forgotten_rope_scaling_is_beyond_the_bound(name: str) -> None:
    test_a_mistake_is_beyond_the_bound(MODELS[name], without_rope_scaling)


@given(st.lists(st.floats(-1e30, 1e30, allow_subnormal=False), min_size=1, max_size=20), st.integers(0, 99))
def test_random_rounding_is_at_most_half_a_unit(values: list[float], seed: int) -> None:
    exact = np.array(values)
    moved = random_rounding(np.random.default_rng(seed))(exact)
    assert (np.abs(moved - exact) <= 2.0**-8 * np.abs(exact)).all()


def test_random_rounding_has_the_spread_of_a_rounding() -> None:
    random = np.random.default_rng(0)
    values = random.standard_normal(100_000)
    rounded, drawn = round_to_bf16(values) - values, random_rounding(random)(values) - values
    # 10^5 draws give a standard deviation to about 0.3 %, and a mean to 0.003 of it.
    assert 0.98 <= drawn.std() / rounded.std() <= 1.02
    assert abs(drawn.mean()) <= 0.02 * drawn.std()
    assert random_rounding(random)(np.zeros(3)).tolist() == [0, 0, 0]


def test_separation_counts_standard_deviations_of_the_closest_race() -> None:
    lm_head = np.array([[3.0, 0.0], [0.0, 4.0], [3.0, 1.0]])
    logits = np.array([[10.0, 0.0, 9.0]])
    hidden_errors = np.array([[[0.1, 0.1]], [[-0.1, -0.1]], [[0.1, -0.1]], [[-0.1, 0.1]]])  # [K, P, H]
    errors = hidden_errors @ lm_head.T
    # The lead over the last one is 1; rows 0 and 2 lie 1 apart, and an error along that is 0.1 in every sample. Over
    # the middle one the lead is 10 at a distance of 5, so that it is not the closest race.
    expected = np.sqrt(((0.1**2) + np.mean([(0.3 - 0.4) ** 2, (0.3 + 0.4) ** 2]) / 25) / 2)
    assert separation(logits, errors, lm_head) == pytest.approx([1 / expected])
