"""What a model is: its shape, rotary embedding and special tokens, from config.json or from GGUF metadata.

Only what this engine runs is let in. Anything else is refused by name here, so that no later stage computes
something other than the model's authors meant.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.errors import ModelError
from engine.fields import Fields, read_json, shown
from engine.generation_config import GenerationConfig, read_generation_config
from engine.gguf_header import GgufHeader

HEAD_DIMS = (64, 80, 96, 128)  # what the attention kernels are written for
MAX_GQA_GROUP = 8
VECTOR = 8  # bf16 values in one 16-byte load
MAX_LAYERS = 1024  # the largest Llama has 126; a damaged count must not make a list of billions of tensors

# What a field means when config.json leaves it out: transformers' defaults for these two.
_ABSENT_COMMON = {"bos_token_id": 1, "eos_token_id": 2, "rms_norm_eps": 1e-6, "hidden_act": "silu"}
_ABSENT: dict[str, dict[str, Any]] = {
    "LlamaForCausalLM": {**_ABSENT_COMMON, "max_position_embeddings": 2048},
    "MistralForCausalLM": {
        **_ABSENT_COMMON,
        "max_position_embeddings": 131072,
        "num_key_value_heads": 8,
        "sliding_window": 4096,
    },
}
_ARCHITECTURE_OF = {"llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM"}
_DEFAULT_ROPE_THETA = 10000.0


@dataclass(frozen=True)
class RopeScaling:
    """How the rotary embedding is stretched beyond the context that the model was first trained on.

    type "linear" uses `factor`; "llama3" uses `factor` and the three fields after it; "divisors" has one
    divisor for each of the head_dim/2 frequencies, which is how GGUF stores llama3.
    """

    type: str
    factor: float = 1.0
    low_freq_factor: float = 0.0
    high_freq_factor: float = 0.0
    original_max_position_embeddings: int = 0
    divisors: tuple[float, ...] = ()


@dataclass(frozen=True)
class ModelConfig:
    """The shape of a Llama-like model, in Hugging Face's terms.

    `rope_scaling` None: no scaling. `bos_token_id` None: no such token. `dtype`: how the weights are stored, in the
    file's words ("gguf" for that format: each tensor has a type of its own); on the device they are bf16.
    """

    architecture: str
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    rms_norm_eps: float
    rope_theta: float
    rope_scaling: RopeScaling | None
    max_position_embeddings: int
    tie_word_embeddings: bool
    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]
    dtype: str

    @classmethod
    def from_hf(cls, folder: str | Path) -> ModelConfig:
        """Read config.json, and generation_config.json where there is one, of a Hugging Face folder.

        Raises ModelError naming the file and the field: missing, of a wrong type, or not supported.
        """
        path = Path(folder) / "config.json"
        return cls.from_hf_fields(Fields(read_json(path), str(path)), read_generation_config(Path(folder)))

    @classmethod
    def from_hf_fields(cls, fields: Fields, generation: GenerationConfig) -> ModelConfig:
        """As `from_hf`, of fields that have been read already."""
        architecture = _hf_architecture(fields)
        fields = Fields({**_ABSENT[architecture], **fields.values}, fields.source)
        _refuse_unsupported_hf(fields)
        theta, scaling = _hf_rope(fields)
        config = cls(
            architecture=architecture,
            num_layers=fields.integer("num_hidden_layers"),
            **_heads(fields, "hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim"),
            intermediate_size=fields.integer("intermediate_size"),
            vocab_size=fields.integer("vocab_size"),
            rms_norm_eps=fields.number("rms_norm_eps"),
            rope_theta=theta,
            rope_scaling=scaling,
            max_position_embeddings=fields.integer("max_position_embeddings"),
            tie_word_embeddings=fields.flag("tie_word_embeddings"),
            bos_token_id=next(iter(fields.ids("bos_token_id") + generation.bos_token_ids), None),
            eos_token_ids=_unique(fields.ids("eos_token_id") + generation.eos_token_ids),
            dtype=fields.text("dtype", default=fields.text("torch_dtype", default="unspecified")),
        )
        check_supported(config, fields.source)
        return config

    @classmethod
    def from_gguf(cls, header: GgufHeader, rope_divisors: tuple[float, ...] = ()) -> ModelConfig:
        """Read the metadata of a GGUF file of llama architecture (Mistral models are stored as such too).

        `rope_divisors`: the contents of its tensor rope_freqs.weight, where it has one.
        Raises ModelError naming the file and the key: missing, of a wrong type, or not supported.
        """
        fields = Fields(header.metadata, str(header.path))
        _refuse_unsupported_gguf(fields)
        embedding = header.tensors.get("token_embd.weight")
        ids = (fields.ids(f"tokenizer.ggml.{kind}_token_id") for kind in ("eos", "eot", "eom"))
        config = cls(
            architecture="LlamaForCausalLM",
            num_layers=fields.integer("llama.block_count"),
            **_gguf_heads(fields),
            intermediate_size=fields.integer("llama.feed_forward_length"),
            vocab_size=fields.integer("llama.vocab_size", default=embedding.shape[0] if embedding else None),
            rms_norm_eps=fields.number("llama.attention.layer_norm_rms_epsilon"),
            rope_theta=fields.number("llama.rope.freq_base", _DEFAULT_ROPE_THETA),
            rope_scaling=_gguf_rope_scaling(fields, rope_divisors),
            max_position_embeddings=fields.integer("llama.context_length"),
            tie_word_embeddings="output.weight" not in header.tensors,
            bos_token_id=next(iter(fields.ids("tokenizer.ggml.bos_token_id")), None),
            eos_token_ids=_unique(sum(ids, ())),
            dtype="gguf",
        )
        _check_gguf_rope(fields, config)
        check_supported(config, fields.source)
        return config


def check_supported(config: ModelConfig, source: str) -> None:
    """Raise ModelError, naming `source`, if the kernels can't run this shape."""
    if config.head_dim not in HEAD_DIMS:
        raise ModelError(f"{source}: head_dim is {config.head_dim}; the kernels are written for {HEAD_DIMS}")
    group, rest = divmod(config.num_heads, config.num_kv_heads)
    if rest or not 1 <= group <= MAX_GQA_GROUP:
        raise ModelError(
            f"{source}: {config.num_heads} query heads share {config.num_kv_heads} KV heads;"
            f" the kernels need a whole number from 1 to {MAX_GQA_GROUP} of query heads for each KV head"
        )
    if config.num_layers > MAX_LAYERS:
        raise ModelError(f"{source}: {config.num_layers} layers; at most {MAX_LAYERS} are supported")
    for name, value in (("hidden_size", config.hidden_size), ("intermediate_size", config.intermediate_size)):
        if value % VECTOR:
            raise ModelError(f"{source}: {name} is {value}; the kernels need a multiple of {VECTOR}")


def _unique(ids: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(dict.fromkeys(ids))


def _heads(fields: Fields, hidden: str, heads: str, kv_heads: str, head_dim: str) -> dict[str, int]:
    """The four numbers of the attention heads; the arguments are the fields' names in this format."""
    hidden_size, num_heads = fields.integer(hidden), fields.integer(heads)
    if not fields.has(head_dim) and hidden_size % num_heads:
        what = f"is missing, and {hidden} {hidden_size} is no multiple of {heads} {num_heads}"
        raise fields.error(head_dim, what)
    return {
        "hidden_size": hidden_size,
        "num_heads": num_heads,
        "num_kv_heads": fields.integer(kv_heads, default=num_heads),
        "head_dim": fields.integer(head_dim, default=hidden_size // num_heads),
    }


# config.json


def _hf_architecture(fields: Fields) -> str:
    named = fields.values.get("architectures")
    if named is None and isinstance(fields.values.get("model_type"), str):
        named = [_ARCHITECTURE_OF.get(fields.values["model_type"], fields.values["model_type"])]
    if not isinstance(named, list) or len(named) != 1 or not isinstance(named[0], str):
        raise fields.error("architectures", f"is {shown(named)}; expected a list of one name")
    if named[0] not in _ABSENT:
        raise fields.error("architectures", f"names {named[0]}; only {' and '.join(_ABSENT)} are supported")
    return named[0]


def _refuse_unsupported_hf(fields: Fields) -> None:
    for name in ("attention_bias", "mlp_bias"):
        if fields.flag(name):
            raise fields.error(name, "is true; models with bias vectors are not supported")
    if fields.text("hidden_act") != "silu":
        raise fields.error("hidden_act", f"is {shown(fields.text('hidden_act'))}; only silu is supported")
    if fields.has("quantization_config"):
        raise fields.error("quantization_config", "is set; quantised safetensors are not supported")
    if fields.has("sliding_window"):
        window, positions = fields.integer("sliding_window"), fields.integer("max_position_embeddings")
        if window < positions:
            what = f"is {window} < max_position_embeddings {positions}; sliding windows are not supported"
            raise fields.error("sliding_window", what)


def _hf_rope(fields: Fields) -> tuple[float, RopeScaling | None]:
    """Base and scaling: beside each other in older files, both in `rope_parameters` since transformers 5."""
    rope = fields.section("rope_scaling" if fields.values.get("rope_scaling") else "rope_parameters")
    theta = rope.number("rope_theta", default=fields.number("rope_theta", default=_DEFAULT_ROPE_THETA))
    for place in (rope, fields):
        if place.number("partial_rotary_factor", default=1.0) != 1.0:
            raise place.error("partial_rotary_factor", "is not 1; partial rotation is not supported")
    name = "rope_type" if rope.has("rope_type") else "type"
    kind = rope.text(name, default="default")
    if kind == "default":
        return theta, None
    if kind == "linear":
        return theta, RopeScaling("linear", factor=rope.number("factor"))
    if kind == "llama3":
        return theta, _llama3_scaling(rope)
    raise rope.error(name, f"is {shown(kind)}; only default, linear and llama3 are supported")


def _llama3_scaling(rope: Fields) -> RopeScaling:
    low, high = rope.number("low_freq_factor"), rope.number("high_freq_factor")
    if not low < high:
        raise rope.error("high_freq_factor", f"is {high}; expected more than low_freq_factor {low}")
    original = rope.integer("original_max_position_embeddings")
    return RopeScaling("llama3", rope.number("factor"), low, high, original)


# GGUF metadata


def _refuse_unsupported_gguf(fields: Fields) -> None:
    architecture = fields.text("general.architecture")
    if architecture != "llama":
        raise fields.error("general.architecture", f"is {shown(architecture)}; only llama is supported")
    if fields.integer("llama.expert_count", default=0, minimum=0):
        raise fields.error("llama.expert_count", "is above 0; mixture-of-experts models are not supported")
    context = fields.integer("llama.context_length")
    window = fields.integer("llama.attention.sliding_window", default=context, minimum=0)
    if 0 < window < context:
        what = f"is {window} < llama.context_length {context}; sliding windows are not supported"
        raise fields.error("llama.attention.sliding_window", what)


def _gguf_heads(fields: Fields) -> dict[str, int]:
    names = (f"llama.attention.{name}" for name in ("head_count", "head_count_kv", "key_length"))
    heads = _heads(fields, "llama.embedding_length", *names)
    value_length = fields.integer("llama.attention.value_length", default=heads["head_dim"])
    if value_length != heads["head_dim"]:
        what = f"is {value_length}; expected the key length {heads['head_dim']}"
        raise fields.error("llama.attention.value_length", what)
    return heads


def _gguf_rope_scaling(fields: Fields, divisors: tuple[float, ...]) -> RopeScaling | None:
    kind = fields.text("llama.rope.scaling.type", default="none")
    if kind not in ("none", "linear"):
        raise fields.error("llama.rope.scaling.type", f"is {shown(kind)}; only none and linear are supported")
    if kind == "linear" and divisors:
        raise fields.error("llama.rope.scaling.type", "is linear beside a tensor rope_freqs.weight; one must go")
    if kind == "linear":
        return RopeScaling("linear", factor=fields.number("llama.rope.scaling.factor"))
    return RopeScaling("divisors", divisors=divisors) if divisors else None


def _check_gguf_rope(fields: Fields, config: ModelConfig) -> None:
    dimensions = fields.integer("llama.rope.dimension_count", default=config.head_dim)
    if dimensions != config.head_dim:
        what = f"is {dimensions}; expected the head size {config.head_dim}"
        raise fields.error("llama.rope.dimension_count", what)
    divisors = config.rope_scaling.divisors if config.rope_scaling else ()
    if divisors and len(divisors) != config.head_dim // 2:
        what = f"has {len(divisors)} values; expected {config.head_dim // 2}"
        raise fields.error("rope_freqs.weight", what)
