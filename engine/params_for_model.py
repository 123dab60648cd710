"""SamplingParams held against a model: its vocabulary, its tokenizer, and the room that a prompt leaves."""

from __future__ import annotations

from collections.abc import Iterable
from copy import copy

from engine.errors import ParamsError
from engine.sampling_params import SamplingParams
from engine.tokenizer import Tokenizer

MAX_LOGPROBS = 20  # likeliest tokens beside the one that was taken: each costs the kernel a pass over the logits


def params_for_model(params: SamplingParams, tokenizer: Tokenizer, vocab_size: int, room: int) -> SamplingParams:
    """A copy for the engine to keep: max_tokens cut to `room` tokens, bad_words as token ids.

    Raises ParamsError naming the field for what this model or this engine cannot do.
    """
    kept = copy(params)
    kept.logit_bias = params.logit_bias  # checked and copied anew: the caller may have changed what is in it
    kept.check_together()  # fields may have been set since it was made
    check_for_vocabulary(kept, vocab_size)
    kept.max_tokens = room if params.max_tokens is None else min(params.max_tokens, room)
    kept.min_tokens = min(params.min_tokens, kept.max_tokens)
    words = (ids for word in params.bad_words or () for ids in spellings(word, tokenizer))
    kept.bad_words_token_ids = tuple(ids for ids in words if max(ids) < vocab_size)  # the others cannot be drawn
    return kept


def check_for_vocabulary(params: SamplingParams, vocab_size: int) -> None:
    """Raise ParamsError for a token id that the model does not have, or more logprobs than the engine gives."""
    ids = {name: getattr(params, name) or () for name in ("stop_token_ids", "allowed_token_ids", "logit_bias")}
    for name, given in ids.items():
        _check_ids(name, given, vocab_size)
    for name in ("logprobs", "prompt_logprobs"):
        count = getattr(params, name)
        if count is not None and count > MAX_LOGPROBS:
            raise ParamsError(f"{name} must be at most {MAX_LOGPROBS}, not {count}")


def _check_ids(name: str, ids: Iterable[int], vocab_size: int) -> None:
    outside = [token for token in ids if token >= vocab_size]
    if outside:
        raise ParamsError(f"{name} must hold token ids from 0 to {vocab_size - 1} for this model, not {outside[0]}")


def spellings(word: str, tokenizer: Tokenizer) -> list[tuple[int, ...]]:
    """The token ids that spell `word` at the start of a text, and after a blank where they differ.

    Of the second the first token must be another one and their number the same, as in vLLM: otherwise the blank is a
    token of its own, and what follows it is spelled as the first.
    """
    bare = tuple(tokenizer.encode(word.lstrip(), add_special_tokens=False))
    after_blank = tuple(tokenizer.encode(f" {word.lstrip()}", add_special_tokens=False))
    if len(after_blank) == len(bare) and after_blank[:1] != bare[:1]:
        return [bare, after_blank]
    return [bare] if bare else []
