"""How a request's tokens are chosen and when its answer ends, under vLLM's names and with their meanings."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import inf
from numbers import Integral, Real
from typing import Any

from engine.errors import ParamsError

# Below it a temperature is 0 (as in vLLM): a float32 logit divided by less has no room left for the noise of a draw.
GREEDY_TEMPERATURE = 1e-5


@dataclass(kw_only=True)
class SamplingParams:
    """What a request asks for. A field can be set later, too: `params.max_tokens = 50`.

    Raises ParamsError, a ValueError, naming the field and its range when one is out of it.

    How many: n answers to one prompt, each with its own random numbers.

    Which token, applied in this order to the logits:
    allowed_token_ids: only these. bad_words: texts that must not appear. logit_bias: token id -> added.
    repetition_penalty: divides a positive and multiplies a negative logit of every token of prompt and answer.
    frequency_penalty, presence_penalty: subtracted for a token of the answer, as often as it has come and once.
    temperature: divides; 0 takes the likeliest token (greedy). min_p: the least share of the best token's probability.
    top_k: that many of the likeliest (0 or -1: all). top_p: the likeliest that make up this share.
    seed: the same seed gives the same draws, whatever else runs (None: the engine's seed and the request's number).

    When to end: max_tokens (None: when the context is full); stop: texts, cut off unless include_stop_str_in_output;
    stop_token_ids, beside the model's own, which ignore_eos ignores; min_tokens: none of these before that many.

    What comes back: logprobs and prompt_logprobs: the log-probability of each token and of that many likeliest beside
    it, before any of the above. detokenize: text at all. skip_special_tokens: not in the text.
    """

    n: int = 1
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    stop: str | Sequence[str] | None = ()
    stop_token_ids: Sequence[int] | None = ()
    ignore_eos: bool = False
    max_tokens: int | None = 16
    min_tokens: int = 0
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    detokenize: bool = True
    skip_special_tokens: bool = True
    include_stop_str_in_output: bool = False
    bad_words: Sequence[str] | None = ()
    logit_bias: Mapping[int, float] | None = None
    allowed_token_ids: Sequence[int] | None = None
    # Filled in by params_for_model.py, whose tokenizer knows how bad_words may be spelled.
    bad_words_token_ids: tuple[tuple[int, ...], ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        self.check_together()

    def __setattr__(self, name: str, value: Any) -> None:
        """Check and normalise one field; what was worked out of the old value is forgotten."""
        if name not in self.__dataclass_fields__:
            raise ParamsError(f"SamplingParams has no {name}; it has {', '.join(sorted(self.__dataclass_fields__))}")
        value = _NORMALISE.get(name, _as_is)(value)
        is_right, wanted = _RANGES.get(name, _ANYTHING)
        if not (value is None and name in _OPTIONAL) and not is_right(value):
            raise ParamsError(f"{name} must be {wanted}, not {value!r}")
        for derived in _DERIVED:
            self.__dict__.pop(derived, None)
        object.__setattr__(self, name, value)

    def check_together(self) -> None:
        """Raise ParamsError where two fields contradict each other."""
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise ParamsError(f"min_tokens must be at most max_tokens ({self.max_tokens}), not {self.min_tokens}")
        if self.n > 1 and self.temperature == 0:
            raise ParamsError(f"n must be 1 when using greedy sampling (temperature 0), not {self.n}")
        if self.stop and not self.detokenize:
            raise ParamsError("stop must be empty with detokenize=False: there is no text to find it in")

    @cached_property
    def truncates(self) -> bool:
        """Whether top-k, top-p or min-p leaves tokens out. The likeliest one always stays, so greedy needs none."""
        return self.temperature > 0 and (self.top_k > 0 or self.top_p < 1 or self.min_p > 0)

    @cached_property
    def penalises(self) -> bool:
        """Whether tokens that have come before are treated differently."""
        return self.repetition_penalty != 1 or self.presence_penalty != 0 or self.frequency_penalty != 0

    @cached_property
    def needs_tokens(self) -> bool:
        """Whether the next token's logits depend on the tokens before it, beside what the model makes of them."""
        return self.penalises or bool(self.bad_words)

    @cached_property
    def is_plain(self) -> bool:
        """Whether temperature and seed are all there is to a draw: no list of tokens, no threshold, no logprobs."""
        edits = self.needs_tokens or self.logit_bias or self.min_tokens or self.allowed_token_ids is not None
        return not (edits or self.truncates or self.logprobs is not None)


_DERIVED = ("truncates", "penalises", "needs_tokens", "is_plain")
_OPTIONAL = {"seed", "max_tokens", "logprobs", "prompt_logprobs", "logit_bias", "allowed_token_ids"}

Range = tuple[Callable[[Any], bool], str]


def _as_is(value: Any) -> Any:
    return value


def _texts(value: Any) -> Any:
    return (value,) if isinstance(value, str) else () if value is None else _tuple(value)


def _ids(value: Any) -> Any:
    return () if value is None else _tuple(value)


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, Iterable) and not isinstance(value, str) else value


def _count_of_logprobs(value: Any) -> Any:
    """True asks for one, as in vLLM."""
    return int(value) or None if isinstance(value, bool) else value


def _bias(value: Any) -> Any:
    """JSON has no integer keys: `{"50": 1}` names token 50."""
    if not isinstance(value, Mapping):
        return value
    return {int(token) if isinstance(token, str) and token.isdecimal() else token: add for token, add in value.items()}


_NORMALISE: dict[str, Callable[[Any], Any]] = {
    "temperature": lambda value: 0.0 if _is_number(value) and 0 <= value < GREEDY_TEMPERATURE else value,
    "seed": lambda value: None if value == -1 else value,  # as in vLLM
    "stop": _texts,
    "bad_words": _texts,
    "stop_token_ids": _ids,
    "allowed_token_ids": _tuple,
    "logprobs": _count_of_logprobs,
    "prompt_logprobs": _count_of_logprobs,
    "logit_bias": _bias,
}


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _is_whole(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _between(low: float, high: float) -> Range:
    return lambda value: _is_number(value) and low <= value <= high, f"between {low:g} and {high:g}"


def _whole(low: int) -> Range:
    return lambda value: _is_whole(value) and value >= low, f"a whole number, at least {low}"


def _are_ids(value: Any) -> bool:
    return isinstance(value, tuple) and all(_is_whole(token) and token >= 0 for token in value)


_ANYTHING: Range = (lambda _: True, "")
_FLAG: Range = (lambda value: isinstance(value, bool), "True or False")
_TEXTS: Range = (
    lambda value: isinstance(value, tuple) and all(isinstance(text, str) and text for text in value),
    "a text or several, none of them empty",
)
_RANGES: dict[str, Range] = {
    "n": _whole(1),
    "presence_penalty": _between(-2, 2),
    "frequency_penalty": _between(-2, 2),
    "repetition_penalty": (lambda value: _is_number(value) and 0 < value < inf, "a positive number"),
    "temperature": (lambda value: _is_number(value) and 0 <= value < inf, "0 or a positive number"),
    "top_p": (lambda value: _is_number(value) and 0 < value <= 1, "above 0 and at most 1"),
    "top_k": _whole(-1),
    "min_p": _between(0, 1),
    "seed": (lambda value: _is_whole(value) and 0 <= value < 2**64, "between 0 and 2**64 - 1"),
    "stop": _TEXTS,
    "stop_token_ids": (_are_ids, "token ids, none below 0"),
    "ignore_eos": _FLAG,
    "max_tokens": _whole(1),
    "min_tokens": _whole(0),
    "logprobs": _whole(0),
    "prompt_logprobs": _whole(0),
    "detokenize": _FLAG,
    "skip_special_tokens": _FLAG,
    "include_stop_str_in_output": _FLAG,
    "bad_words": _TEXTS,
    "logit_bias": (
        lambda value: (
            isinstance(value, dict)
            and all(_is_whole(token) and token >= 0 for token in value)
            and all(_is_number(add) and abs(add) <= 100 for add in value.values())
        ),
        "numbers from -100 to 100 by token id",
    ),
    "allowed_token_ids": (lambda value: _are_ids(value) and bool(value), "at least one token id, none below 0"),
}
