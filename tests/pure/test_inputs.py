"""Prompts in every form that vLLM takes for text, and the token ids that they become."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import models, pre_tokenizers

from engine import TextPrompt, TokensPrompt
from engine.errors import ModelError, UsageError
from engine.inputs import parse_prompts
from engine.prompts import EncodedPrompt, PromptEncoder
from engine.tokenizer import Tokenizer

VOCABULARY = ["a", "b", "c", "d", "Ġ", "ab", "Ġab", "Ġa", "<s>"]
MERGES = [("a", "b"), ("Ġ", "ab"), ("Ġ", "a")]


def tokenizer() -> Tokenizer:
    backend = Backend(models.BPE({token: i for i, token in enumerate(VOCABULARY)}, MERGES))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return Tokenizer(backend, "tiny", {})


def encoder() -> PromptEncoder:
    return PromptEncoder(tokenizer(), vocab_size=9, max_model_len=6, advice=lambda tokens: f"make room for {tokens}")


def parsed(prompts: Any) -> list[tuple[str | None, list[int] | None]]:
    return [(prompt.text, prompt.token_ids) for prompt in parse_prompts(prompts)]


@pytest.mark.parametrize(
    ("prompts", "expected"),
    [
        ("ab", [("ab", None)]),
        (["ab", "c"], [("ab", None), ("c", None)]),
        (("ab", "c"), [("ab", None), ("c", None)]),
        ([1, 2], [(None, [1, 2])]),
        ([[1, 2], (3,)], [(None, [1, 2]), (None, [3])]),
        (np.array([1, 2]), [(None, [1, 2])]),
        ([np.array([1, 2]), np.array([3])], [(None, [1, 2]), (None, [3])]),
        (TextPrompt(prompt="ab"), [("ab", None)]),
        (TokensPrompt(prompt_token_ids=[1, 2]), [(None, [1, 2])]),
        (TokensPrompt(prompt_token_ids=[1, 2], prompt="ab"), [("ab", [1, 2])]),
        (
            [{"prompt": "ab"}, {"prompt_token_ids": [3]}, "c"],
            [("ab", None), (None, [3]), ("c", None)],
        ),
        ({"prompt": "ab", "multi_modal_data": None, "mm_processor_kwargs": {}}, [("ab", None)]),
        ([], []),
        ([[]], [(None, [])]),
    ],
)
def test_every_form_of_a_prompt(prompts: Any, expected: list[Any]) -> None:
    assert parsed(prompts) == expected


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ({"prompt": "a", "multi_modal_data": {"image": 1}}, "the prompt has multi_modal_data, which is not supported"),
        ({"prompt_embeds": np.zeros((2, 4))}, "prompt_embeds, which is not supported: .* give prompt_token_ids"),
        (["a", {"encoder_prompt": "a", "decoder_prompt": "b"}], "prompt 1 has encoder_prompt, .* decoder-only"),
        ({"prompt": "a", "cache_salt": "x"}, "cache_salt, which is not supported: .* enable_prefix_caching=False"),
        ({"text": "a"}, "unknown key 'text'"),
        ({}, "neither prompt nor prompt_token_ids"),
        ({"prompt": 3}, r"3 \(int\) under 'prompt'; expected a text"),
        ({"prompt_token_ids": "abc"}, r"the prompt is 'abc' \(str\); expected a text, a list of token ids"),
        ([[1, 2.5]], r"the prompt is \[1, 2.5\] \(list\); expected"),
        (["a", None], r"prompt 1 is None \(NoneType\)"),
        (None, "the prompt is None"),
        (7, "the prompt is 7"),
    ],
)
def test_what_is_no_prompt_is_named(prompts: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        parse_prompts(prompts)
    assert "\n" not in str(caught.value)


def test_texts_become_ids_and_ids_stay() -> None:
    given = ["ab ab", {"prompt_token_ids": [3, 2], "prompt": "what it stands for"}, [0]]
    expected = [EncodedPrompt("ab ab", [5, 6]), EncodedPrompt("what it stands for", [3, 2]), EncodedPrompt(None, [0])]
    assert encoder().encode(given) == expected


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ("", "^the prompt has no tokens; give at least one word$"),
        (["ab", ""], "^prompt 1 has no tokens"),
        ([[1], [0] * 6], r"^prompt 1 has 6 tokens, this engine takes at most 5 \(max_model_len\); make room for 6$"),
        ([9], r"^the prompt has token ids outside 0\.\.8$"),
        ([[1], [-1]], "^prompt 1 has token ids outside"),
    ],
)
def test_ids_that_cannot_run_are_refused(prompts: Any, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        encoder().encode(prompts)
