"""Meta's own checkpoint folder of Llama 3: params.json, tokenizer.model and consolidated.00.pth.

Meta publishes each model so, and Hugging Face's repositories of them keep it under `original/`. A large model is split
for model parallelism: each of consolidated.00.pth, consolidated.01.pth ... holds a part of every matrix.

What params.json leaves out is decided as Hugging Face's conversion script decides it
(transformers, src/transformers/models/llama/convert_llama_weights_to_hf.py), which is told the version of the model by
the person who runs it; here the files tell it: scaled rotary embedding came with 3.1, tied embeddings with 3.2.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine.config import ModelConfig, RopeScaling, check_supported
from engine.errors import ModelError
from engine.fields import Fields, read_json
from engine.rotary_order import unpermute
from engine.tiktoken_file import NUM_SPECIAL_TOKENS, STOP_TOKENS, special_token_id
from engine.torch_file import TorchFile

PARAMS = "params.json"
TOKENIZER = "tokenizer.model"
FIRST_PART = "consolidated.00.pth"

# Llama 3 was trained on 8192 tokens; 3.1 and later stretch that with scaled rotary embedding.
CONTEXT, STRETCHED_CONTEXT = 8192, 131072
SCALE_FACTOR, SCALE_FACTOR_OF_3_2 = 8.0, 32.0
_UNSUPPORTED = {
    "quantization_args": "quantised checkpoints",
    "lora_args": "LoRA adapters",
    "moe_args": "mixtures of experts (Llama 4)",
    "vision_model": "vision models",
    "vision_chunk_size": "vision models",
}

_OUTER = {
    "tok_embeddings.weight": "model.embed_tokens.weight",
    "norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_LAYER = {
    "attention_norm": "input_layernorm",
    "attention.wq": "self_attn.q_proj",
    "attention.wk": "self_attn.k_proj",
    "attention.wv": "self_attn.v_proj",
    "attention.wo": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "feed_forward.w1": "mlp.gate_proj",
    "feed_forward.w2": "mlp.down_proj",
    "feed_forward.w3": "mlp.up_proj",
}
# Split by inputs, so that the parts' products are summed; every other matrix is split by outputs.
_SPLIT_BY_COLUMNS = ("attention.wo.weight", "feed_forward.w2.weight")
_HARMLESS = "rope.freqs"  # a buffer that old checkpoints carry and that the engine computes itself
_ROWS_COMPARED = 4096
_MIXED = "the parts are of different models, fetch them again"


def is_meta_folder(folder: Path) -> bool:
    """Whether `folder` is a checkpoint of Meta's kind. Mistral puts a params.json beside config.json: that is not."""
    return (folder / PARAMS).is_file() and not (folder / "config.json").is_file()


def check_meta_folder(folder: Path) -> None:
    """Raise ModelError if weights or tokenizer are missing."""
    for name in (FIRST_PART, TOKENIZER):
        if not (folder / name).is_file():
            raise ModelError(f"{folder}: has {PARAMS} but no {name}, as Meta's folders have it; fetch it again")


def hf_name(name: str) -> str:
    """The Hugging Face name of a tensor of Meta's; a name that is not known stays as it is."""
    layer = re.fullmatch(r"layers\.(\d+)\.(.+)\.weight", name)
    if layer and layer[2] in _LAYER:
        return f"model.layers.{layer[1]}.{_LAYER[layer[2]]}.weight"
    return _OUTER.get(name, name)


class MetaWeights:
    """The tensors of a folder under their Hugging Face names and in its row order; `config` is the configuration.

    Raises ModelError naming the file, and the tensor or field, that is damaged, missing or of an unsupported kind.
    """

    def __init__(self, folder: Path) -> None:
        self.source = str(folder)
        self._parts = _open_parts(folder)
        names = [name for name in self._parts[0].tensors if name != _HARMLESS]
        self._names = {hf_name(name): name for name in names}
        self._shapes = {hf_name(name): self._shape(name) for name in names}
        self.config = self._read_config(folder)

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Shape of each tensor by name, the parts put together."""
        return self._shapes

    def read(self, name: str) -> NDArray[np.uint16]:
        """The tensor's bf16 bits; a view of the file where it is stored whole, as bf16 and in this row order."""
        stored = self._names[name]
        whole = self._joined(stored)
        if stored.endswith("attention.wq.weight"):
            return unpermute(whole, self.config.num_heads)
        if stored.endswith("attention.wk.weight"):
            return unpermute(whole, self.config.num_kv_heads)
        return whole

    def close(self) -> None:
        """Let go of the files. Arrays handed out stay valid: each keeps its map alive."""
        self._parts.clear()

    def _axis(self, name: str) -> int | None:
        """The axis by which `name` is split over the parts; None: each part has all of it."""
        if len(self._parts[0].tensors[name].shape) == 1:
            return None
        return 1 if name.endswith(_SPLIT_BY_COLUMNS) else 0

    def _shape(self, name: str) -> tuple[int, ...]:
        """The shape of the whole tensor; each part must have as much of it as the others."""
        first, axis = self._parts[0], self._axis(name)
        shape = first.tensors[name].shape
        for part in self._parts:
            if part.tensors[name].shape != shape:
                what = f"tensor {name} is {list(part.tensors[name].shape)}, but {list(shape)} in {first.path.name}"
                raise ModelError(f"{part.path}: {what}; {_MIXED}")
        return tuple(size * len(self._parts) if i == axis else size for i, size in enumerate(shape))

    def _joined(self, name: str) -> NDArray[np.uint16]:
        axis = self._axis(name)
        if axis is None or len(self._parts) == 1:
            return self._parts[0].read(name)
        return np.concatenate([part.read(name) for part in self._parts], axis)

    def _read_config(self, folder: Path) -> ModelConfig:
        first = self._parts[0]
        if "tok_embeddings.weight" not in first.tensors:
            raise ModelError(f"{first.path}: has no tensor tok_embeddings.weight; it is not a Llama model of Meta's")
        return config_from_params(folder / PARAMS, self._is_tied(), first.dtype("tok_embeddings.weight"))

    def _is_tied(self) -> bool:
        """Whether the output matrix is the embedding: Meta stores it all the same, as an equal copy."""
        embed, output = "tok_embeddings.weight", "output.weight"
        first = self._parts[0].tensors
        if output not in first:
            return True
        if first[embed].shape != first[output].shape or len(first[embed].shape) != 2:
            return False  # check_tensors says what is wrong with one of them
        return all(first[embed] == first[output] or _equal(part, embed, output) for part in self._parts)


def _equal(part: TorchFile, one: str, other: str) -> bool:
    """Whether two tensors are the same; where they are not, the first rows nearly always tell."""
    left, right = part.read(one), part.read(other)
    rows = range(0, len(left), _ROWS_COMPARED)
    return all(np.array_equal(left[i : i + _ROWS_COMPARED], right[i : i + _ROWS_COMPARED]) for i in rows)


def _open_parts(folder: Path) -> list[TorchFile]:
    paths = sorted(folder.glob("consolidated.*.pth"))
    expected = [f"consolidated.{number:02d}.pth" for number in range(len(paths))]
    missing = [name for name in expected if name not in {path.name for path in paths}]
    if missing:
        raise ModelError(f"{folder / missing[0]}: is missing, and there are later parts; fetch it again")
    parts = [TorchFile(path) for path in paths]
    for part in parts[1:]:
        odd = sorted(part.tensors.keys() ^ parts[0].tensors.keys())
        if odd:
            what = f"{'has' if odd[0] in part.tensors else 'lacks'} tensor {odd[0]}, unlike {paths[0].name}"
            raise ModelError(f"{part.path}: {what}; {_MIXED}")
    return parts


def vocab_size_of(folder: Path) -> int:
    """The number of token ids that params.json gives. Raises ModelError as `config_from_params`."""
    fields = _read_params(folder / PARAMS)
    return fields.integer("vocab_size")


def _read_params(path: Path) -> Fields:
    """The fields of a params.json, which some releases wrap in an object "model"."""
    values = read_json(path)
    inner = values.get("model")
    fields = Fields(inner if isinstance(inner, dict) else values, str(path))
    _refuse_unsupported(fields)
    return fields


def config_from_params(path: Path, tied: bool, dtype: str) -> ModelConfig:
    """The configuration in a params.json. `tied`: whether the output matrix is the embedding.

    Raises ModelError naming the file and the field: missing, of a wrong type, or not supported.
    """
    fields = _read_params(path)
    hidden, heads, vocab = fields.integer("dim"), fields.integer("n_heads"), fields.integer("vocab_size")
    if hidden % heads:
        raise fields.error("dim", f"is {hidden}, no multiple of n_heads {heads}")
    scaling = _rope_scaling(fields, tied)
    config = ModelConfig(
        architecture="LlamaForCausalLM",
        hidden_size=hidden,
        num_layers=fields.integer("n_layers"),
        num_heads=heads,
        num_kv_heads=fields.integer("n_kv_heads", default=heads),
        head_dim=hidden // heads,
        intermediate_size=intermediate_size(fields, hidden),
        vocab_size=vocab,
        rms_norm_eps=fields.number("norm_eps"),
        rope_theta=fields.number("rope_theta", default=500000.0),
        rope_scaling=scaling,
        max_position_embeddings=CONTEXT if scaling is None else STRETCHED_CONTEXT,
        tie_word_embeddings=tied,
        bos_token_id=special_token_id("<|begin_of_text|>", vocab),
        eos_token_ids=tuple(special_token_id(token, vocab) for token in STOP_TOKENS),
        dtype=dtype,
    )
    check_supported(config, fields.source)
    return config


def _refuse_unsupported(fields: Fields) -> None:
    for name, what in _UNSUPPORTED.items():
        if fields.has(name) and fields.values[name] != -1:  # -1 is Meta's "no such thing"
            raise fields.error(name, f"is set; {what} are not supported")
    if fields.values.get("vocab_size") == -1 or not fields.has("vocab_size"):
        raise fields.error(
            "vocab_size", "is not given, as in Llama 2 and older; of Meta's folders only Llama 3 is read"
        )
    if fields.integer("vocab_size") <= NUM_SPECIAL_TOKENS:
        what = f"is {fields.integer('vocab_size')}; expected more than the {NUM_SPECIAL_TOKENS} special tokens"
        raise fields.error("vocab_size", what)


def intermediate_size(fields: Fields, hidden: int) -> int:
    """Rows of the gate and up projections: 8/3 of `hidden`, times a factor, rounded up to a multiple."""
    multiple = fields.integer("multiple_of", default=256)
    wanted = int(fields.number("ffn_dim_multiplier", default=1.0) * (8 * hidden // 3))
    return -(-wanted // multiple) * multiple


def _rope_scaling(fields: Fields, tied: bool) -> RopeScaling | None:
    """The scaling of Llama 3.1 and later: by a factor of 8, and of 32 in 3.2.

    So says the config.json that these models have on the hub. Meta's own program (llama-models 0.3.0) takes 8 for all;
    a `rope_scaling_factor` in the file decides where there is one.
    """
    if not fields.flag("use_scaled_rope"):
        return None
    factor = fields.number("rope_scaling_factor", default=SCALE_FACTOR_OF_3_2 if tied else SCALE_FACTOR)
    high = fields.number("rope_high_freq_factor", default=4.0)
    return RopeScaling("llama3", factor, 1.0, high, CONTEXT)
