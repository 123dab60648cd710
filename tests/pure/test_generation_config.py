"""generation_config.json: what is taken from it, what is told as not applied, and what is refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from engine.errors import ModelError
from engine.generation_config import GenerationConfig, read_generation_config
from engine.sampling_params import SamplingParams
from tests.tiny_model import read_config, write_json

# The files of published models.
LLAMA_3_2 = {"bos_token_id": 128000, "do_sample": True, "eos_token_id": [128001, 128008, 128009], "temperature": 0.6}
LLAMA_3_2 |= {"top_p": 0.9, "transformers_version": "4.45.0.dev0"}
LLAMA_2 = {"_from_model_config": True, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "max_length": 4096}
LLAMA_2 |= {"temperature": 0.9, "top_p": 0.6, "do_sample": True, "transformers_version": "4.32.0.dev0"}
SMOLLM2 = {"_from_model_config": True, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}


def read(folder: Path, values: dict[str, Any]) -> GenerationConfig:
    write_json(folder / "generation_config.json", values)
    return read_generation_config(folder)


@pytest.mark.parametrize(
    ("values", "given", "not_applied"),
    [
        ({}, {}, ()),
        (LLAMA_3_2, {"temperature": 0.6, "top_p": 0.9}, ()),
        (LLAMA_2, {"temperature": 0.9, "top_p": 0.6}, ("max_length=4096",)),
        (SMOLLM2, {}, ()),
        ({"temperature": 0.7, "max_new_tokens": 512}, {"temperature": 0.7, "max_tokens": 512}, ()),
        ({"temperature": 0}, {"temperature": 0.0}, ()),
        ({"temperature": None, "do_sample": None, "top_p": None}, {}, ()),
        ({"do_sample": False, "temperature": 0.7, "top_p": 0.9, "top_k": 20}, {"temperature": 0.0}, ()),
        ({"do_sample": False, "repetition_penalty": 1.1}, {"temperature": 0.0, "repetition_penalty": 1.1}, ()),
        ({"do_sample": True, "top_k": 20, "min_p": 0.05}, {"top_k": 20, "min_p": 0.05}, ()),
        ({"top_k": 0, "top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0, "num_beams": 1}, {}, ()),
        ({"top_k": -1, "typical_p": 1, "suppress_tokens": [], "stop_strings": None}, {"top_k": -1}, ()),
        ({"stop_strings": ["###"], "num_beams": 4}, {}, ('stop_strings=["###"]', "num_beams=4")),
        ({"do_sample": False, "typical_p": 0.5}, {"temperature": 0.0}, ()),
        ({"some_new_field": 3, "another": False}, {}, ("some_new_field=3",)),
    ],
)
def test_defaults_and_what_is_not_applied(
    tmp_path: Path, values: dict[str, Any], given: dict[str, Any], not_applied: tuple[str, ...]
) -> None:
    config = read(tmp_path, values)
    assert config.sampling_params() == SamplingParams(**given)
    assert config.not_applied == not_applied


def test_no_file_says_nothing(tmp_path: Path) -> None:
    config = read_generation_config(tmp_path)
    assert config.sampling_params() == SamplingParams() and config.not_applied == ()


def test_what_sampling_params_gain_must_be_applied() -> None:
    """A field that SamplingParams gets one day must no longer be told as not applied."""
    named = {"typical_p", "epsilon_cutoff", "eta_cutoff", "suppress_tokens", "no_repeat_ngram_size", "stop_strings"}
    assert not named & {field.name for field in dataclasses.fields(SamplingParams)}, "apply it in generation_config.py"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"temperature": -1}, r"temperature is -1; expected a number > 0"),
        ({"temperature": "hot"}, r'temperature is "hot"; expected a number'),
        ({"temperature": True}, r"temperature is true; expected a number"),
        ({"temperature": float("nan")}, r"temperature is nan; expected a number"),
        ({"do_sample": 1}, r"do_sample is 1; expected true or false"),
        ({"do_sample": False, "temperature": []}, r"temperature is \[\]; expected a number"),
        ({"max_new_tokens": 0}, r"max_new_tokens is 0; expected a whole number >= 1"),
        ({"max_new_tokens": 2.5}, r"max_new_tokens is 2\.5; expected a whole number"),
        ({"eos_token_id": "</s>"}, r'eos_token_id is "</s>"; expected a token id or a list'),
        ({"pad_token_id": -1}, r"pad_token_id is -1; expected a token id"),
        ({"top_p": 0}, r"top_p must be above 0 and at most 1, not 0"),
        ({"top_p": "most"}, r"top_p must be above 0 and at most 1, not 'most'"),
        ({"top_k": 1.5}, r"top_k must be a whole number, at least -1, not 1\.5"),
        ({"repetition_penalty": 0}, r"repetition_penalty must be a positive number, not 0"),
        ({"min_p": 2}, r"min_p must be between 0 and 1, not 2"),
        ({"bos_token_id": {}}, r"bos_token_id is \{\}; expected a token id"),
    ],
)
def test_a_broken_field_is_named(tmp_path: Path, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        read(tmp_path, values)
    assert str(caught.value).startswith(f"{tmp_path / 'generation_config.json'}: ") and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("config", "generation", "expected"), [(1, 7, 1), (None, 7, 7), (None, None, None), (None, [8, 9], 8)]
)
def test_begin_of_text_is_config_jsons_first(
    tmp_path: Path, config: Any, generation: Any, expected: int | None
) -> None:
    write_json(tmp_path / "generation_config.json", {"bos_token_id": generation})
    assert read_config(tmp_path, bos_token_id=config).bos_token_id == expected
