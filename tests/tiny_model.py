"""Small Llama models on disk for the tests of loading: Hugging Face folders and GGUF files made of random weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models

from bindings.dtypes import float32_to_bf16
from engine.checkpoint import expected_tensors
from engine.config import ModelConfig

HF_CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "vocab_size": 48,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "max_position_embeddings": 256,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "torch_dtype": "bfloat16",
}
# The smallest that the kernels are written for.
TINIEST: dict[str, Any] = HF_CONFIG | {
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "num_key_value_heads": 1,
    "vocab_size": 64,
}
GGUF_METADATA: dict[str, Any] = {
    "llama.embedding_length": 64,
    "llama.feed_forward_length": 32,
    "llama.block_count": 2,
    "llama.attention.head_count": 4,
    "llama.attention.head_count_kv": 2,
    "llama.attention.key_length": 64,
    "llama.attention.value_length": 64,
    "llama.vocab_size": 48,
    "llama.attention.layer_norm_rms_epsilon": 1e-5,
    "llama.rope.dimension_count": 64,
    "llama.context_length": 256,
    "tokenizer.ggml.bos_token_id": 1,
    "tokenizer.ggml.eos_token_id": 2,
}
GGUF_LAYER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
GGUF_OUTER = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}

Stored = tuple[str, NDArray[Any]]  # a safetensors dtype and the array with its bits


def write_json(path: Path, value: object) -> None:
    """`value` as a JSON file."""
    path.write_text(json.dumps(value), encoding="utf-8")


def read_config(folder: Path, **changes: Any) -> ModelConfig:
    """HF_CONFIG with `changes` as a folder's config.json, read back. The change ... takes the field away."""
    changed = {**HF_CONFIG, **changes}
    write_json(folder / "config.json", {name: value for name, value in changed.items() if value is not ...})
    return ModelConfig.from_hf(folder)


def random_weights(config: ModelConfig, seed: int = 0) -> dict[str, NDArray[np.float32]]:
    """A float32 array for each tensor of the model, by its Hugging Face name."""
    random = np.random.default_rng(seed)
    return {name: random.standard_normal(shape, np.float32) for name, shape in expected_tensors(config).items()}


def stored_as(dtype: str, values: NDArray[np.float32]) -> Stored:
    """`values` as a safetensors file of `dtype` stores them."""
    if dtype == "BF16":
        return dtype, float32_to_bf16(values)
    return dtype, values.astype({"F16": np.float16, "F32": np.float32, "F64": np.float64}[dtype])


def safetensors_parts(tensors: Mapping[str, Stored]) -> tuple[dict[str, Any], bytes]:
    """The header and the data of a safetensors file."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    data = b""
    for name, (dtype, array) in tensors.items():
        begin, data = len(data), data + array.tobytes()
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [begin, len(data)]}
    return header, data


def join_safetensors(header: object, data: bytes) -> bytes:
    """A safetensors file of this header and data, whatever they say; like the package, it pads JSON to 8 bytes."""
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    if not isinstance(header, bytes):
        encoded += b" " * (-len(encoded) % 8)
    return len(encoded).to_bytes(8, "little") + encoded + data


def write_safetensors(path: Path, tensors: Mapping[str, Stored]) -> None:
    """A well-formed safetensors file."""
    path.write_bytes(join_safetensors(*safetensors_parts(tensors)))


def write_folder(folder: Path, dtype: str = "BF16", **changes: Any) -> dict[str, NDArray[np.float32]]:
    """A Hugging Face folder with one weights file; returns its weights before they were stored as `dtype`."""
    folder.mkdir(exist_ok=True)
    weights = random_weights(read_config(folder, **changes))
    stored = {name: stored_as(dtype, values) for name, values in weights.items()}
    write_safetensors(folder / "model.safetensors", stored)
    return weights


def write_tiniest(folder: Path) -> Path:
    """The configuration TINIEST, for load_format="dummy", and a tokenizer with a letter a token; token 1 is special.

    The tokenizer has two letters more than the model has tokens, as real ones may.
    """
    write_json(folder / "config.json", TINIEST)
    letters = [chr(ord("0") + i) for i in range(TINIEST["vocab_size"] + 2)]
    tokenizer = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens(letters[1:2])
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def permuted(rows: NDArray[Any], num_heads: int) -> NDArray[Any]:
    """A q or k projection as llama.cpp's converter leaves it: rows i and i + D/2 of a head become neighbours."""
    head_dim = rows.shape[0] // num_heads
    result = np.empty_like(rows)
    for head in range(num_heads):
        for i in range(head_dim // 2):
            for half in range(2):
                result[head * head_dim + 2 * i + half] = rows[head * head_dim + half * head_dim // 2 + i]
    return result


def gguf_name(name: str) -> str:
    """The GGUF name of a tensor with this Hugging Face name."""
    if name in GGUF_OUTER:
        return GGUF_OUTER[name]
    _, _, layer, part = name.removesuffix(".weight").split(".", 3)
    return f"blk.{layer}.{GGUF_LAYER[part]}.weight"


def gguf_tensors(config: ModelConfig, weights: Mapping[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
    """`weights` under their GGUF names and in GGUF's row order."""
    heads = {"q_proj": config.num_heads, "k_proj": config.num_kv_heads}
    renamed = {}
    for name, values in weights.items():
        kind = name.split(".")[-2]
        renamed[gguf_name(name)] = permuted(values, heads[kind]) if kind in heads else values
    return renamed


def write_gguf(
    path: Path,
    tensors: Mapping[str, NDArray[Any]],
    matrix_type: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F32,
    architecture: str = "llama",
    split_max_tensors: int = 0,
    **changes: Any,
) -> None:
    """A GGUF file of GGUF_METADATA with `changes`; the change ... takes a key away.

    Matrices are quantised to `matrix_type`, vectors stay float32. With `split_max_tensors` the model is cut into files
    of so many tensors, named like `path` with -00001-of-00002 behind its stem.
    """
    writer = gguf.GGUFWriter(path, architecture, split_max_tensors=split_max_tensors)
    for key, value in {**GGUF_METADATA, **changes}.items():
        add_value(writer, key, value)
    for name, values in tensors.items():
        kind = matrix_type if values.ndim == 2 else gguf.GGMLQuantizationType.F32
        writer.add_tensor(name, gguf.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def add_value(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    """One metadata value, with the type that llama.cpp's converter gives it; ... writes nothing."""
    if isinstance(value, str):
        writer.add_string(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, list):
        writer.add_array(key, value)
    elif value is not ...:
        writer.add_uint32(key, value)
