"""The forms in which a prompt may be given, under vLLM's names: text, token ids, or a dict that holds one of them."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import numpy as np

from engine.errors import UsageError


class TextPrompt(TypedDict):
    """A text to be continued."""

    prompt: str


class _WithText(TypedDict, total=False):
    prompt: str


class TokensPrompt(_WithText):
    """Token ids to be continued. `prompt`, where given, is the text that they stand for: it only comes back."""

    prompt_token_ids: list[int]


PromptType = str | TextPrompt | TokensPrompt | Sequence[int]
Prompts = PromptType | Sequence[PromptType]

# vLLM's other keys: why this engine can't take them, and what to do. None or nothing under one of them is no request.
_TEXT_ONLY = "the engine reads text only: leave it out"
_DECODER_ONLY = "the engine runs decoder-only models: give one prompt, as text or prompt_token_ids"
_UNSUPPORTED = {
    "multi_modal_data": _TEXT_ONLY,
    "multi_modal_uuids": _TEXT_ONLY,
    "mm_processor_kwargs": _TEXT_ONLY,
    "prompt_embeds": "the engine embeds tokens itself: give prompt_token_ids",
    "token_type_ids": _DECODER_ONLY,
    "encoder_prompt": _DECODER_ONLY,
    "decoder_prompt": _DECODER_ONLY,
    "cache_salt": "equal prompts share their pages: enable_prefix_caching=False of LLM() keeps them apart",
}
_ACCEPTED = 'a text, a list of token ids, {"prompt": text} or {"prompt_token_ids": ids}'


@dataclass(frozen=True)
class ParsedPrompt:
    """A prompt in one form: its text, where there is one, and its token ids, or None if they are still to be made.

    place: how an error calls it: `the prompt`, or `prompt 3` of several, counted from 0.
    """

    text: str | None
    token_ids: list[int] | None
    place: str = "the prompt"


def parse_prompts(prompts: Prompts) -> list[ParsedPrompt]:
    """One prompt of any form, or several. Raises UsageError naming the prompt and what of it can't be taken."""
    if isinstance(prompts, str | Mapping):
        return [parse_prompt(prompts)]
    if not isinstance(prompts, Iterable):
        raise UsageError(f"the prompt is {_shown(prompts)}; expected {_ACCEPTED}, or a list of these")
    given: list[Any] = list(prompts)
    if given and isinstance(given[0], int | np.integer):
        return [parse_prompt(given)]
    places = ["the prompt"] if len(given) == 1 else [f"prompt {number}" for number in range(len(given))]
    return [parse_prompt(prompt, place) for prompt, place in zip(given, places, strict=True)]


def parse_prompt(prompt: PromptType, place: str = "the prompt") -> ParsedPrompt:
    """One prompt of any form. Raises UsageError naming what of it can't be taken."""
    if isinstance(prompt, str):
        return ParsedPrompt(prompt, None, place)
    if isinstance(prompt, Mapping):
        return _parse_dict(prompt, place)
    return ParsedPrompt(None, _token_ids(prompt, place), place)


def _parse_dict(prompt: Mapping[str, Any], place: str) -> ParsedPrompt:
    for key, value in prompt.items():
        if key in _UNSUPPORTED and value is not None and not (isinstance(value, Mapping) and not value):
            raise UsageError(f"{place} has {key}, which is not supported: {_UNSUPPORTED[key]}")
        if key not in _UNSUPPORTED and key not in ("prompt", "prompt_token_ids"):
            raise UsageError(f"{place} has an unknown key {key!r}; expected prompt or prompt_token_ids")
    text, ids = prompt.get("prompt"), prompt.get("prompt_token_ids")
    if text is not None and not isinstance(text, str):
        raise UsageError(f"{place} has {_shown(text)} under 'prompt'; expected a text")
    if text is None and ids is None:
        raise UsageError(f"{place} has neither prompt nor prompt_token_ids; expected {_ACCEPTED}")
    return ParsedPrompt(text, None if ids is None else _token_ids(ids, place), place)


def _token_ids(tokens: Any, place: str) -> list[int]:
    try:
        return [operator.index(token) for token in tokens]
    except TypeError:
        raise UsageError(f"{place} is {_shown(tokens)}; expected {_ACCEPTED}") from None


def _shown(value: object) -> str:
    return f"{value!r:.40} ({type(value).__name__})"
