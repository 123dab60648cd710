"""generation_config.json: where a model's text ends, and how its authors would have it sampled.

Defaults only: what a caller says in SamplingParams comes first. The file's fields are those of transformers'
GenerationConfig (https://huggingface.co/docs/transformers/main_classes/text_generation), taken as vLLM takes them
(`generation_config="auto"`), but for one thing: `"do_sample": false` means the likeliest token, as it does there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.errors import ModelError, ParamsError
from engine.fields import Fields, read_json, shown
from engine.sampling_params import SamplingParams

FILE = "generation_config.json"

# Applied here or by ModelConfig. A pad token fills up batches, and this engine's have no gaps.
_APPLIED = {"temperature", "do_sample", "max_new_tokens", "bos_token_id", "eos_token_id", "pad_token_id"}
_APPLIED |= {"repetition_penalty", "top_k", "top_p", "min_p"}
_SHAPE = ("top_k", "top_p", "min_p")  # of the distribution: they have no say where the likeliest token is taken
# Of no consequence for the text.
_HARMLESS = {"_from_model_config", "transformers_version", "use_cache", "cache_implementation"}
_HARMLESS |= {"return_dict_in_generate", "output_attentions", "output_hidden_states", "output_scores", "output_logits"}
# Heeded only where tokens are drawn; each with the value that changes nothing.
_FOR_SAMPLING = {"typical_p": 1, "epsilon_cutoff": 0, "eta_cutoff": 0}
_NEUTRAL = {"encoder_repetition_penalty": 1, "length_penalty": 1, "num_beams": 1}
_NEUTRAL |= {"num_beam_groups": 1, "num_return_sequences": 1, "guidance_scale": 1}
_NEUTRAL |= _FOR_SAMPLING


@dataclass(frozen=True)
class GenerationConfig:
    """What the file says, as far as this engine can do it.

    given: fields of SamplingParams by name, those that it says something of; temperature 0 for the likeliest token.
    not_applied: fields that would change the text and that this engine does not have, as `num_beams=4`.
    """

    source: str
    bos_token_ids: tuple[int, ...] = ()
    eos_token_ids: tuple[int, ...] = ()
    given: Mapping[str, float] = field(default_factory=dict)
    not_applied: tuple[str, ...] = field(default=())

    def sampling_params(self) -> SamplingParams:
        """The file's defaults; SamplingParams' own for what it leaves open."""
        return SamplingParams(**self.given)  # type: ignore[arg-type]


def read_generation_config(folder: Path) -> GenerationConfig:
    """The folder's generation_config.json; where there is none, one that says nothing.

    Raises ModelError naming the file and the field that is of a wrong type or out of its range.
    """
    path = folder / FILE
    if not path.is_file():
        return GenerationConfig(str(path))
    fields = Fields(read_json(path), str(path))
    given = _given(fields)
    fields.ids("pad_token_id")  # only checked: see _APPLIED
    return GenerationConfig(
        source=fields.source,
        bos_token_ids=fields.ids("bos_token_id"),
        eos_token_ids=fields.ids("eos_token_id"),
        given=given,
        not_applied=_not_applied(fields, greedy=given.get("temperature") == 0),
    )


def _given(fields: Fields) -> dict[str, float]:
    """What the file says of sampling, under SamplingParams' names."""
    given: dict[str, float] = {}
    temperature = _temperature(fields)
    if temperature is not None:
        given["temperature"] = temperature
    if fields.has("max_new_tokens"):
        given["max_tokens"] = fields.integer("max_new_tokens")
    for name in ("repetition_penalty", *(_SHAPE if temperature != 0 else ())):
        if fields.has(name):
            given[name] = _checked(fields, name)
    return given


def _checked(fields: Fields, name: str) -> float:
    """A field that has the same name and meaning in SamplingParams, which knows its range."""
    value: float = fields.values[name]
    try:
        SamplingParams(**{name: value})  # type: ignore[arg-type]
    except ParamsError as error:
        raise ModelError(f"{fields.source}: {error}") from None
    return value


def _temperature(fields: Fields) -> float | None:
    given = fields.values.get("temperature")
    temperature = fields.number("temperature") if given is not None and given != 0 else given
    if fields.has("do_sample") and not fields.flag("do_sample"):
        return 0.0
    return None if temperature is None else float(temperature)


def _not_applied(fields: Fields, greedy: bool) -> tuple[str, ...]:
    unheeded = _APPLIED | _HARMLESS | (set(_FOR_SAMPLING) if greedy else set())
    return tuple(
        f"{name}={shown(value)}"
        for name, value in fields.values.items()
        if name not in unheeded and not _is_neutral(name, value)
    )


def _is_neutral(name: str, value: Any) -> bool:
    """Whether the field changes nothing; one that is not known does if it is set at all."""
    if name in _NEUTRAL:
        return value in (None, _NEUTRAL[name])
    return not value
