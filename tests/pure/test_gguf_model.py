"""GGUF models: names, row order, metadata, damaged files, the default model."""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from bindings.dtypes import float32_to_bf16
from engine.checkpoint import Checkpoint, open_checkpoint
from engine.config import ModelConfig, RopeScaling
from engine.errors import ModelError
from engine.gguf_header import read_gguf_header
from engine.gguf_model import hf_name, unpermute
from engine.model_files import default_model
from tests.raw_gguf import join_gguf, tensor
from tests.tiny_model import gguf_tensors, permuted, random_weights, read_config, write_gguf

F32, F16, BF16 = GGMLQuantizationType.F32, GGMLQuantizationType.F16, GGMLQuantizationType.BF16
Q4_0, Q8_0 = GGMLQuantizationType.Q4_0, GGMLQuantizationType.Q8_0

Weights = dict[str, NDArray[np.float32]]


@pytest.fixture
def weights(tmp_path: Path) -> Weights:
    return random_weights(read_config(tmp_path))


@pytest.fixture
def tensors(tmp_path: Path, weights: Weights) -> Weights:
    return gguf_tensors(read_config(tmp_path), weights)


# Row order and names


@pytest.mark.parametrize(("num_heads", "head_dim"), [(1, 4), (3, 64), (8, 80), (32, 128)])
def test_unpermute_undoes_the_converter(num_heads: int, head_dim: int) -> None:
    rows = np.arange(num_heads * head_dim * 3).reshape(-1, 3)
    moved = permuted(rows, num_heads)
    assert not np.array_equal(moved, rows)
    assert np.array_equal(unpermute(moved, num_heads), rows)


def test_unpermuted_rows_rotate_by_halves_as_the_stored_ones_do_by_neighbours() -> None:
    """The reason for the reordering: turning (2i, 2i+1) of stored rows is turning (i, i+D/2) of ours."""
    random = np.random.default_rng(0)
    stored, x = random.standard_normal((2 * 64, 16)), random.standard_normal(16)
    angles = random.standard_normal(32)
    pairs = (stored @ x).reshape(2, 32, 2)
    turned = (pairs[..., 0] + 1j * pairs[..., 1]) * np.exp(1j * angles)
    halves = (unpermute(stored, 2) @ x).reshape(2, 2, 32)
    ours = (halves[:, 0] + 1j * halves[:, 1]) * np.exp(1j * angles)
    # The same products in the same order.
    assert np.array_equal(ours, turned)


@pytest.mark.parametrize("matrix_type", [F32, F16, BF16, Q8_0])
@pytest.mark.parametrize("tied", [False, True])
def test_every_tensor_comes_back(tmp_path: Path, matrix_type: GGMLQuantizationType, tied: bool) -> None:
    config = read_config(tmp_path, tie_word_embeddings=tied)
    weights = random_weights(config)
    path = tmp_path / "tiny.gguf"
    write_gguf(path, gguf_tensors(config, weights), matrix_type)
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.config.tie_word_embeddings is tied
        assert checkpoint.tensor_names == tuple(weights)
        for name, values in weights.items():
            kind = matrix_type if values.ndim == 2 else F32
            # Rows are quantised one by one, so quantising ours gives the rows of the file in our order.
            expected = gguf.dequantize(gguf.quantize(values, kind), kind)
            assert np.array_equal(checkpoint.tensor(name), float32_to_bf16(expected)), name


def test_unknown_names_stay() -> None:
    assert hf_name("blk.7.ffn_up.weight") == "model.layers.7.mlp.up_proj.weight"
    assert hf_name("blk.7.attn_q.bias") == "blk.7.attn_q.bias"
    assert hf_name("blk.7.ffn_up_exps.weight") == "blk.7.ffn_up_exps.weight"


# Metadata


def test_metadata_makes_the_config(tmp_path: Path, tensors: Weights) -> None:
    path = tmp_path / "tiny.gguf"
    write_gguf(path, tensors, **{"llama.rope.freq_base": 5e5, "tokenizer.ggml.eot_token_id": 9})
    config = ModelConfig.from_gguf(read_gguf_header(path))
    assert config == ModelConfig(
        architecture="LlamaForCausalLM",
        hidden_size=64,
        num_layers=2,
        num_heads=4,
        num_kv_heads=2,
        head_dim=64,
        intermediate_size=32,
        vocab_size=48,
        rms_norm_eps=float(np.float32(1e-5)),
        rope_theta=5e5,
        rope_scaling=None,
        max_position_embeddings=256,
        tie_word_embeddings=False,
        bos_token_id=1,
        eos_token_ids=(2, 9),
        dtype="gguf",
    )


@pytest.mark.parametrize(
    ("changes", "field", "expected"),
    [
        ({"llama.vocab_size": ...}, "vocab_size", 48),
        ({"llama.attention.head_count_kv": ...}, "num_kv_heads", 4),
        ({"llama.rope.dimension_count": ...}, "head_dim", 64),
        ({"llama.rope.scaling.type": "none"}, "rope_scaling", None),
        (
            {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0},
            "rope_scaling",
            RopeScaling("linear", 4.0),
        ),
        ({"tokenizer.ggml.bos_token_id": ...}, "bos_token_id", None),
        ({"tokenizer.ggml.eos_token_id": ...}, "eos_token_ids", ()),
        ({"tokenizer.ggml.eom_token_id": 2}, "eos_token_ids", (2,)),
        ({"llama.attention.sliding_window": 256}, "max_position_embeddings", 256),
        ({"llama.expert_count": 0}, "num_layers", 2),
    ],
)
def test_absent_and_alternative_keys(
    tmp_path: Path, tensors: Weights, changes: dict[str, Any], field: str, expected: object
) -> None:
    path = tmp_path / "tiny.gguf"
    write_gguf(path, tensors, **changes)
    assert getattr(ModelConfig.from_gguf(read_gguf_header(path)), field) == expected


def test_head_size_from_the_hidden_size_where_no_key_gives_it(tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    config = read_config(tmp_path, hidden_size=256)
    absent = {"llama.attention.key_length": ..., "llama.attention.value_length": ...}
    write_gguf(path, gguf_tensors(config, random_weights(config)), **{"llama.embedding_length": 256, **absent})
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.config.head_dim == 64


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"llama.block_count": ...}, r"llama\.block_count is missing; expected a whole number"),
        ({"llama.block_count": "2"}, r'llama\.block_count is "2"; expected a whole number'),
        ({"llama.block_count": 3}, r"lacks tensor model\.layers\.2\.input_layernorm\.weight \[64\] and 8 more"),
        ({"llama.block_count": 1}, r"does not have: model\.layers\.1\.\S+, model\.layers\.1\.\S+, \S+ and 6 more"),
        ({"llama.embedding_length": 128}, r"embed_tokens\.weight has shape \[48, 64\]; .* asks for \[48, 128\]"),
        ({"llama.attention.head_count": [4, 4]}, r"llama\.attention\.head_count is \[4, 4\]; expected a whole number"),
        ({"llama.attention.head_count_kv": 3}, r"4 query heads share 3 KV heads"),
        ({"llama.attention.value_length": 32}, r"value_length is 32; expected the key length 64"),
        ({"llama.rope.dimension_count": 32}, r"dimension_count is 32; expected the head size 64"),
        ({"llama.rope.scaling.type": "yarn"}, r'scaling\.type is "yarn"; only none and linear are supported'),
        ({"llama.rope.scaling.type": "linear"}, r"llama\.rope\.scaling\.factor is missing"),
        ({"llama.expert_count": 8}, r"expert_count is above 0; mixture-of-experts models are not supported"),
        ({"llama.attention.sliding_window": 128}, r"sliding_window is 128 < llama\.context_length 256"),
        ({"llama.block_count": 2**32 - 1}, r"4294967295 layers; at most 1024 are supported"),
        ({"tokenizer.ggml.eos_token_id": "2"}, r'eos_token_id is "2"; expected a token id'),
        ({"architecture": "qwen2"}, r'general\.architecture is "qwen2"; only llama is supported'),
    ],
)
def test_unusable_metadata_is_named(tmp_path: Path, tensors: Weights, changes: dict[str, Any], message: str) -> None:
    path = tmp_path / "tiny.gguf"
    write_gguf(path, tensors, **changes)
    with pytest.raises(ModelError, match=message) as caught:
        open_checkpoint(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


# The tensor that stands for Llama 3.1's frequency scaling


def with_divisors(tensors: Weights, divisors: NDArray[Any]) -> dict[str, NDArray[Any]]:
    return {**tensors, "rope_freqs.weight": divisors}


def test_rope_divisors_reach_the_config(tmp_path: Path, tensors: Weights) -> None:
    path = tmp_path / "tiny.gguf"
    divisors = np.linspace(1, 8, 32, dtype=np.float32)
    write_gguf(path, with_divisors(tensors, divisors))
    with open_checkpoint(path) as checkpoint:
        expected = RopeScaling("divisors", divisors=tuple(float(d) for d in divisors))
        assert checkpoint.config.rope_scaling == expected
        assert "rope_freqs.weight" not in checkpoint.tensor_names


@pytest.mark.parametrize(
    ("divisors", "changes", "message"),
    [
        (np.ones(16, np.float32), {}, r"rope_freqs\.weight has 16 values; expected 32"),
        (np.zeros(32, np.float32), {}, r"tensor rope_freqs\.weight holds values that are not above 0"),
        (np.full(32, np.nan, np.float32), {}, r"tensor rope_freqs\.weight holds values that are not above 0"),
        (np.ones((1, 32), np.float32), {"matrix_type": F16}, r"tensor rope_freqs\.weight is not stored as F32"),
        (
            np.ones(32, np.float32),
            {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 2.0},
            r"llama\.rope\.scaling\.type is linear beside a tensor rope_freqs\.weight",
        ),
    ],
)
def test_unusable_rope_divisors_are_named(
    tmp_path: Path, tensors: Weights, divisors: NDArray[Any], changes: dict[str, Any], message: str
) -> None:
    path = tmp_path / "tiny.gguf"
    write_gguf(path, with_divisors(tensors, divisors), **changes)
    with pytest.raises(ModelError, match=message):
        open_checkpoint(path)


# Damage


@pytest.fixture(scope="module")
def whole_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model of one layer, so that its header is short."""
    folder = tmp_path_factory.mktemp("gguf")
    config = read_config(folder, num_hidden_layers=1, vocab_size=8)
    path = folder / "whole.gguf"
    changes = {"llama.block_count": 1, "llama.vocab_size": 8}
    write_gguf(path, gguf_tensors(config, random_weights(config)), Q4_0, **changes)
    return path


def header_length(path: Path) -> int:
    return min(tensor.offset for tensor in read_gguf_header(path).tensors.values())


def test_a_cut_header_is_refused(whole_file: Path, tmp_path: Path) -> None:
    content, path = whole_file.read_bytes(), tmp_path / "cut.gguf"
    for length in (*range(64), *range(64, header_length(whole_file), 7)):  # 7 comes to lie in every kind of field
        path.write_bytes(content[:length])
        with pytest.raises(ModelError, match=r"cut\.gguf: "):
            open_checkpoint(path)


@pytest.mark.parametrize("part", [0.2, 0.5, 0.9])
def test_cut_data_names_a_tensor(whole_file: Path, tmp_path: Path, part: float) -> None:
    start, content = header_length(whole_file), whole_file.read_bytes()
    path = tmp_path / "cut.gguf"
    path.write_bytes(content[: start + int((len(content) - start) * part)])
    with pytest.raises(ModelError, match=r"tensor \S+ ends at byte \d+ of \d+; the file is cut short, fetch it again"):
        open_checkpoint(path)


@given(st.data())
def test_a_flipped_byte_is_read_or_refused(whole_file: Path, data: st.DataObject) -> None:
    """Whatever a damaged header says, it ends in values or in a ModelError, never in another exception."""
    content = bytearray(whole_file.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, header_length(whole_file) - 1))] = data.draw(st.integers(0, 255))
    path = whole_file.with_name("flipped.gguf")
    path.write_bytes(content)
    try:
        with open_checkpoint(path) as checkpoint:
            for name in checkpoint.tensor_names:
                checkpoint.tensor(name)
    except ModelError as error:
        assert str(path) in str(error)


@pytest.mark.parametrize(
    ("ggml_type", "message"),
    [
        (24, r"is stored as ggml type 24 \(I8\), which is not supported; quantise the model again, to Q8_0 or Q4_K"),
        (9999, r"is stored as ggml type 9999 \(unknown\), which is not supported"),
    ],
)
def test_unknown_type_is_named(tmp_path: Path, tensors: Weights, ggml_type: int, message: str) -> None:
    path = tmp_path / "tiny.gguf"
    write_gguf(path, tensors)
    name = b"blk.1.ffn_up.weight"
    content = bytearray(path.read_bytes())
    at = content.index(name) + len(name) + 4 + 2 * 8  # past the rank and the two sizes
    assert int.from_bytes(content[at : at + 4], "little") == int(F32)
    content[at : at + 4] = ggml_type.to_bytes(4, "little")
    path.write_bytes(content)
    with pytest.raises(ModelError, match=rf"tensor blk\.1\.ffn_up\.weight {message}"):
        open_checkpoint(path)


def test_rows_must_be_whole_blocks(tmp_path: Path, tensors: Weights) -> None:
    path = tmp_path / "tiny.gguf"
    write_gguf(path, tensors)
    name = b"blk.1.ffn_up.weight"
    content = bytearray(path.read_bytes())
    at = content.index(name) + len(name) + 4
    content[at : at + 8] = (48).to_bytes(8, "little")
    content[at + 16 : at + 20] = int(Q8_0).to_bytes(4, "little")
    path.write_bytes(content)
    with pytest.raises(
        ModelError, match=r"blk\.1\.ffn_up\.weight: shape \[32, 48\] does not come in whole blocks of 32"
    ):
        open_checkpoint(path)


def crafted(path: Path, *tensors: bytes, data: bytes = bytes(256)) -> Path:
    """A GGUF file of these tensor entries, without metadata."""
    path.write_bytes(join_gguf([], tensors, data))
    return path


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (
            [tensor("a", [8], offset=0), tensor("b", [8], offset=0)],
            r"tensor b at byte \d+ overlaps a; the file is damaged",
        ),
        ([tensor("a", [16], offset=0), tensor("b", [8], offset=32)], r"tensor b at byte \d+ overlaps a"),
        ([tensor("a", [8], offset=2**63)], r"tensor a ends at byte \d+ of \d+; the file is cut short"),
        ([tensor("a", [2**62])], r"tensor a ends at byte \d+ of \d+; the file is cut short"),
        ([tensor("a", [2**62] * 4)], r"tensor a ends at byte \d+ of \d+; the file is cut short"),
        ([tensor("a", [64], offset=128)], r"tensor a ends at byte \d+ of \d+; the file is cut short"),
        ([tensor("a", [64], ggml_type=31)], r"tensor a is stored as ggml type 31 \(unknown\), which is not supported"),
        ([tensor("a", [8])], r"general\.architecture is missing"),
    ],
)
def test_tensors_that_lie_wrong_are_named(tmp_path: Path, tensors: list[bytes], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        open_checkpoint(crafted(tmp_path / "crafted.gguf", *tensors))


# The default model


@pytest.fixture(scope="module")
def default() -> Checkpoint:
    return open_checkpoint(default_model())


def test_default_model_is_smollm2(default: Checkpoint) -> None:
    assert default.config == ModelConfig(
        architecture="LlamaForCausalLM",
        hidden_size=576,
        num_layers=30,
        num_heads=9,
        num_kv_heads=3,
        head_dim=64,
        intermediate_size=1536,
        vocab_size=49152,
        rms_norm_eps=float(np.float32(1e-5)),
        rope_theta=100000.0,
        rope_scaling=None,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_ids=(2,),
        dtype="gguf",
    )
    assert len(default.tensor_names) == 30 * 9 + 2


def test_default_model_holds_the_types_it_is_said_to() -> None:
    tensors = read_gguf_header(default_model()).tensors.values()
    kinds = Counter(GGMLQuantizationType(tensor.ggml_type).name for tensor in tensors)
    assert kinds == {"Q4_1": 30 * 7, "Q8_0": 1, "F32": 30 * 2 + 1}


# SHA-256 (its beginning) of the bf16 bits, computed apart from this code: read with gguf.GGUFReader 0.19, dequantised
# with gguf.dequantize, rows moved back one by one, rounded by PyTorch 2.13's Tensor.bfloat16().
DIGESTS = {
    "model.embed_tokens.weight": ((49152, 576), "0c8d76d0178f771e"),
    "model.layers.0.self_attn.q_proj.weight": ((576, 576), "d0ff302d4d83d5be"),
    "model.layers.29.self_attn.k_proj.weight": ((192, 576), "1a30db632e75f91a"),
    "model.layers.11.self_attn.v_proj.weight": ((192, 576), "af8d07b0f3f5e986"),
    "model.layers.17.mlp.down_proj.weight": ((576, 1536), "a1e565a5ec21dbd4"),
    "model.norm.weight": ((576,), "b1c3b88d13d30d19"),
}


@pytest.mark.parametrize("name", DIGESTS)
def test_default_model_reads_as_the_references(default: Checkpoint, name: str) -> None:
    values = default.tensor(name)
    assert (values.shape, hashlib.sha256(values.tobytes()).hexdigest()[:16]) == DIGESTS[name]
