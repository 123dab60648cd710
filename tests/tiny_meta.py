"""A small Llama 3 in Meta's own folder (params.json, tokenizer.model, consolidated.NN.pth), and for Hugging Face.

The .pth files are written here without torch, opcode by opcode, so that a test can have any that it likes. One that
torch wrote is in tests/fixtures (make_meta_fixture.py).
"""

from __future__ import annotations

import base64
import io
import lzma
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from bindings.dtypes import bf16_to_float32, float32_to_bf16
from engine.checkpoint import expected_tensors
from engine.config import ModelConfig
from engine.meta_checkpoint import config_from_params
from tests.tiny_model import permuted, write_json, write_safetensors

FIXTURE = Path(__file__).parent / "fixtures" / "meta_llama.pth.xz"
MERGED = [b" ", b"the", b" the", b"he", b"ll", b"hell", b"hello", b"\n\n", b"123"]
TOKENS = [bytes([byte]) for byte in range(256)] + [token for token in MERGED if len(token) > 1]
PARAMS: dict[str, Any] = {
    "dim": 128,
    "n_layers": 1,
    "n_heads": 2,
    "n_kv_heads": 1,
    "vocab_size": len(TOKENS) + 256,
    "ffn_dim_multiplier": 0.1,
    "multiple_of": 32,
    "norm_eps": 1e-05,
    "rope_theta": 500000.0,
    "use_scaled_rope": True,
}
META_NAMES = {
    "model.embed_tokens.weight": "tok_embeddings.weight",
    "model.norm.weight": "norm.weight",
    "lm_head.weight": "output.weight",
    "input_layernorm": "attention_norm",
    "self_attn.q_proj": "attention.wq",
    "self_attn.k_proj": "attention.wk",
    "self_attn.v_proj": "attention.wv",
    "self_attn.o_proj": "attention.wo",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "feed_forward.w1",
    "mlp.down_proj": "feed_forward.w2",
    "mlp.up_proj": "feed_forward.w3",
}
STORAGES = {np.dtype(np.uint16): "BFloat16Storage", np.dtype(np.float16): "HalfStorage"}
STORAGES |= {np.dtype(np.float32): "FloatStorage", np.dtype(np.float64): "DoubleStorage"}
Arrays = Mapping[str, NDArray[Any]]


def hf_weights(tied: bool = True, **changes: Any) -> dict[str, NDArray[np.float32]]:
    """Weights by Hugging Face names and in its row order, with few bits each, so that the fixture packs well."""
    config = _config(tied, changes)
    random = np.random.PCG64(3)
    weights = {}
    for name, shape in expected_tensors(config).items():
        steps = (random.random_raw(prod(shape)) >> np.uint64(60)).astype(np.float32) - 7.5  # 16 values around 0
        scale = 1 / 8 if len(shape) == 1 else 1 / (4 * np.sqrt(shape[1]))
        exact = (1.0 if len(shape) == 1 else 0.0) + steps * np.float32(scale)
        weights[name] = bf16_to_float32(float32_to_bf16(exact.astype(np.float32))).reshape(shape)
    return weights


def _config(tied: bool, changes: Mapping[str, Any]) -> ModelConfig:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "params.json"
        write_json(path, {**PARAMS, **changes})
        return config_from_params(path, tied, "bfloat16")


def meta_name(name: str) -> str:
    """Meta's name of a tensor."""
    if name in META_NAMES:
        return META_NAMES[name]
    _, _, layer, part = name.removesuffix(".weight").split(".", 3)
    return f"layers.{layer}.{META_NAMES[part]}.weight"


def meta_tensors(weights: Arrays) -> dict[str, NDArray[Any]]:
    """`weights` under Meta's names, in its row order, and with the output matrix that it always stores."""
    heads = {"q_proj": PARAMS["n_heads"], "k_proj": PARAMS["n_kv_heads"]}
    tensors = {}
    for name, values in weights.items():
        kind = name.split(".")[-2]
        tensors[meta_name(name)] = permuted(values, heads[kind]) if kind in heads else values
    return {"output.weight": tensors["tok_embeddings.weight"], **tensors}


def as_bf16(tensors: Arrays) -> dict[str, NDArray[np.uint16]]:
    """bf16 bits of each."""
    return {name: float32_to_bf16(values) for name, values in tensors.items()}


def write_tokenizer(path: Path) -> None:
    """The rank file of TOKENS."""
    path.write_bytes(b"".join(base64.b64encode(token) + b" %d\n" % rank for rank, token in enumerate(TOKENS)))


def write_meta_folder(folder: Path, parts: list[Arrays] | None = None, **changes: Any) -> Path:
    """Meta's folder. `parts`: the tensors of each file (default: one file of bf16 tensors)."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "params.json", {name: v for name, v in {**PARAMS, **changes}.items() if v is not ...})
    write_tokenizer(folder / "tokenizer.model")
    for number, tensors in enumerate(parts or [as_bf16(meta_tensors(hf_weights()))]):
        (folder / f"consolidated.{number:02d}.pth").write_bytes(torch_file(tensors))
    return folder


def write_hf_folder(folder: Path) -> Path:
    """The same model as a Hugging Face folder, with a tokenizer that knows no text."""
    folder.mkdir(parents=True, exist_ok=True)
    rope = {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    config = {
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": PARAMS["dim"],
        "intermediate_size": 64,
        "num_hidden_layers": PARAMS["n_layers"],
        "num_attention_heads": PARAMS["n_heads"],
        "num_key_value_heads": PARAMS["n_kv_heads"],
        "vocab_size": PARAMS["vocab_size"],
        "rms_norm_eps": PARAMS["norm_eps"],
        "rope_theta": PARAMS["rope_theta"],
        "rope_scaling": {**rope, "original_max_position_embeddings": 8192},
        "max_position_embeddings": 131072,
        "tie_word_embeddings": True,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "torch_dtype": "bfloat16",
    }
    write_json(folder / "config.json", config)
    stored = {name: ("BF16", float32_to_bf16(values)) for name, values in hf_weights().items()}
    write_safetensors(folder / "model.safetensors", stored)
    (folder / "tokenizer.json").write_text(Tokenizer(WordLevel({"<s>": 0}, unk_token="<s>")).to_str(), "utf-8")
    return folder


def split(tensors: Arrays, count: int) -> list[dict[str, NDArray[Any]]]:
    """`tensors` as `count` files of a model-parallel checkpoint hold them."""

    def part(name: str, values: NDArray[Any], index: int) -> NDArray[Any]:
        if values.ndim == 1:
            return values
        by_inputs = name.endswith(("attention.wo.weight", "feed_forward.w2.weight"))
        return np.ascontiguousarray(np.split(values, count, axis=1 if by_inputs else 0)[index])

    return [{name: part(name, values, i) for name, values in tensors.items()} for i in range(count)]


def torch_fixture() -> bytes:
    """The consolidated.00.pth that torch wrote."""
    return lzma.decompress(FIXTURE.read_bytes())


# A file of torch.save's, written without torch


def torch_file(tensors: Arrays, pickle: bytes | None = None, compress: bool = False) -> bytes:
    """A zip archive as torch.save writes it; `pickle` in place of the one that describes `tensors`."""
    archive = io.BytesIO()
    how = zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED
    with zipfile.ZipFile(archive, "w", how) as file:
        file.writestr("consolidated/data.pkl", state_dict_pickle(tensors) if pickle is None else pickle)
        file.writestr("consolidated/byteorder", b"little")
        for key, values in enumerate(tensors.values()):
            file.writestr(f"consolidated/data/{key}", values.tobytes())
    return archive.getvalue()


def state_dict_pickle(tensors: Arrays) -> bytes:
    """The pickle of an OrderedDict of tensors, each with a storage of its own."""
    entries = b"".join(text(name) + tensor(str(key), array) for key, (name, array) in enumerate(tensors.items()))
    return b"\x80\x02" + ordered_dict() + b"(" + entries + b"u."


def named(module: str, name: str) -> bytes:
    """The opcode that asks for module.name."""
    return f"c{module}\n{name}\n".encode()


def text(value: str) -> bytes:
    """A string."""
    return b"X" + len(value.encode()).to_bytes(4, "little") + value.encode()


def whole(*numbers: int) -> bytes:
    """Whole numbers, one after another."""
    return b"".join(b"I%d\n" % number for number in numbers)


def ordered_dict() -> bytes:
    """An empty OrderedDict."""
    return named("collections", "OrderedDict") + b")R"


def tensor(key: str, array: NDArray[Any], offset: int = 0, strides: tuple[int, ...] | None = None) -> bytes:
    """A call of torch's that makes a tensor of `array`'s dtype and shape from the storage `key`."""
    steps = tuple(_steps(array.shape)) if strides is None else strides
    storage = named("torch", STORAGES[array.dtype])
    stored = b"(" + text("storage") + storage + text(key) + text("cpu") + whole(array.size) + b"tQ"
    window = whole(offset) + b"(" + whole(*array.shape) + b"t(" + whole(*steps) + b"t"
    return named("torch._utils", "_rebuild_tensor_v2") + b"(" + stored + window + b"\x89" + ordered_dict() + b"tR"


def _steps(shape: tuple[int, ...]) -> Iterator[int]:
    return (prod(shape[axis + 1 :]) for axis in range(len(shape)))
