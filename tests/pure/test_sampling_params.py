"""What a request may ask for: ranges, vLLM's normal forms, and what only a model can refuse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.errors import ParamsError
from engine.gguf_header import GgufHeader
from engine.params_for_model import MAX_LOGPROBS, check_for_vocabulary, params_for_model, spellings
from engine.sampling_params import SamplingParams
from engine.tokenizer import tokenizer_from_gguf
from tests.tiny_tokenizer import byte_level_metadata

TOKENIZER = tokenizer_from_gguf(GgufHeader(Path("tiny.gguf"), byte_level_metadata(), {}))

WRONG: list[tuple[str, Any]] = [
    *[(name, value) for name in ("n", "max_tokens") for value in (0, -1, 1.0, "1", True)],
    *[(name, value) for name in ("presence_penalty", "frequency_penalty") for value in (-2.1, 2.1, float("nan"), "a")],
    *[("repetition_penalty", value) for value in (0, -1.0, float("inf"), float("nan"))],
    *[("temperature", value) for value in (-0.1, float("nan"), float("inf"), "hot", None)],
    *[("top_p", value) for value in (0, -0.1, 1.01, float("nan"))],
    *[("top_k", value) for value in (-2, 1.5)],
    *[("min_p", value) for value in (-0.1, 1.1)],
    *[("seed", value) for value in (-2, 2**64, 0.5)],
    *[("min_tokens", value) for value in (-1, 0.5)],
    *[(name, value) for name in ("logprobs", "prompt_logprobs") for value in (-1, 2.0)],
    *[(name, value) for name in ("stop", "bad_words") for value in ("", [""], ["a", ""], [1], 5)],
    *[("stop_token_ids", value) for value in ([-1], ["a"], [1.0], 5, "12")],
    *[("allowed_token_ids", value) for value in ([], [-1], [None], 5)],
    *[("logit_bias", value) for value in ({-1: 0.0}, {"a": 1.0}, {1: 101.0}, {1: float("nan")}, {1: "x"}, [1])],
    *[(name, 1) for name in ("ignore_eos", "detokenize", "skip_special_tokens", "include_stop_str_in_output")],
]


@pytest.mark.parametrize(("field", "value"), WRONG)
def test_a_value_out_of_range_names_its_field_when_made_and_when_set(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"^{field} must be [^\n]*, not [^\n]*$"):
        SamplingParams(**{field: value})
    params = SamplingParams()
    with pytest.raises(ParamsError, match=f"^{field} must be "):
        setattr(params, field, value)
    assert params == SamplingParams()


def test_every_field_has_vllms_default() -> None:
    p = SamplingParams()
    assert (p.n, p.temperature, p.top_p, p.top_k, p.min_p, p.seed, p.max_tokens, p.min_tokens) == (
        1, 1.0, 1.0, 0, 0.0, None, 16, 0,
    )  # fmt: skip
    assert (p.presence_penalty, p.frequency_penalty, p.repetition_penalty) == (0.0, 0.0, 1.0)
    assert not p.stop and not p.stop_token_ids and not p.bad_words
    assert p.logit_bias is None and p.allowed_token_ids is None and p.logprobs is None and p.prompt_logprobs is None
    assert (p.ignore_eos, p.include_stop_str_in_output, p.detokenize, p.skip_special_tokens) == (
        False, False, True, True,
    )  # fmt: skip


def test_normal_forms() -> None:
    p = SamplingParams(
        stop="###", stop_token_ids=[1, 2], bad_words=["a"], allowed_token_ids=range(3), logit_bias={"5": 1},
        temperature=1e-6, seed=-1, top_k=-1, logprobs=True, max_tokens=None,
    )  # fmt: skip
    assert p.stop == ("###",) and p.stop_token_ids == (1, 2) and p.bad_words == ("a",)
    assert p.allowed_token_ids == (0, 1, 2) and p.logit_bias == {5: 1}
    assert p.temperature == 0 and p.seed is None and p.logprobs == 1 and p.max_tokens is None
    none = SamplingParams(stop=None, stop_token_ids=None, bad_words=None)
    assert none.stop == () and none.stop_token_ids == () and none.bad_words == ()
    assert SamplingParams(top_k=np.int64(5), top_p=np.float32(0.5)).truncates


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"min_tokens": 17}, r"min_tokens must be at most max_tokens \(16\), not 17"),
        ({"n": 2, "temperature": 0}, r"n must be 1 when using greedy sampling"),
        ({"stop": "x", "detokenize": False}, r"stop must be empty with detokenize=False"),
    ],
)
def test_fields_that_contradict_each_other_are_refused_at_once_and_when_used(
    fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        SamplingParams(**fields)
    params = SamplingParams()
    for name, value in fields.items():
        setattr(params, name, value)
    with pytest.raises(ValueError, match=message):
        params_for_model(params, TOKENIZER, 100, 50)


def test_what_is_worked_out_follows_a_field_that_is_set() -> None:
    params = SamplingParams()
    assert params.is_plain and not params.truncates and not params.needs_tokens
    params.top_p = 0.5
    assert params.truncates and not params.is_plain and not params.needs_tokens
    params.temperature = 0
    assert not params.truncates and params.is_plain
    params.frequency_penalty = 0.5
    assert params.needs_tokens and params.penalises and not params.is_plain
    params.frequency_penalty = 0.0
    assert params.is_plain


@pytest.mark.parametrize(
    "fields",
    [{"logit_bias": {1: 1.0}}, {"min_tokens": 1}, {"allowed_token_ids": [1]}, {"bad_words": ["a"]}, {"logprobs": 0}],
)
def test_a_list_or_logprobs_make_a_draw_that_is_not_plain(fields: dict[str, Any]) -> None:
    assert not SamplingParams(**fields).is_plain


def test_the_engines_copy_is_cut_to_the_room_and_leaves_the_callers_alone() -> None:
    params = SamplingParams(max_tokens=None, min_tokens=30, bad_words=["hello"], logit_bias={1: 2.0})
    kept = params_for_model(params, TOKENIZER, 300, 20)
    assert (kept.max_tokens, kept.min_tokens) == (20, 20) and kept.bad_words_token_ids
    assert (params.max_tokens, params.min_tokens, params.bad_words_token_ids) == (None, 30, ())
    assert params_for_model(SamplingParams(max_tokens=7), TOKENIZER, 300, 20).max_tokens == 7
    assert params.logit_bias is not None
    params.logit_bias[1] = 1000.0  # type: ignore[index]
    assert kept.logit_bias == {1: 2.0}
    with pytest.raises(ParamsError, match="logit_bias"):
        params_for_model(params, TOKENIZER, 300, 20)


@pytest.mark.parametrize(
    "fields",
    [
        {"stop_token_ids": [9]},
        {"allowed_token_ids": [3, 10]},
        {"logit_bias": {12: 1.0}},
        {"logprobs": MAX_LOGPROBS + 1},
        {"prompt_logprobs": MAX_LOGPROBS + 1},
    ],
)
def test_what_the_model_does_not_have_is_refused(fields: dict[str, Any]) -> None:
    name = next(iter(fields))
    with pytest.raises(ParamsError, match=f"^{name} must [^\n]*$"):
        check_for_vocabulary(SamplingParams(**fields), 9)
    check_for_vocabulary(SamplingParams(stop_token_ids=[8], allowed_token_ids=[8], logit_bias={8: 1}, logprobs=20), 9)


def test_a_bad_word_is_spelled_with_and_without_the_blank_before_it() -> None:
    ids = {text: tuple(TOKENIZER.encode(text, add_special_tokens=False)) for text in ("wor", " wor", "ld", " ld")}
    assert len(ids[" ld"]) > len(ids["ld"]), "the blank is a token of its own here"
    assert spellings("ld", TOKENIZER) == [ids["ld"]] == spellings(" ld", TOKENIZER)
    assert len(ids["wor"]) > len(ids[" wor"]) == 1
    found = spellings("w", TOKENIZER)
    assert [TOKENIZER.decode(spelled) for spelled in found] == ["w", " w"]


def test_a_field_that_does_not_exist_is_refused() -> None:
    params = SamplingParams()
    with pytest.raises(ValueError, match=r"SamplingParams has no max_token; it has .*max_tokens"):
        params.max_token = 3  # type: ignore[attr-defined]
