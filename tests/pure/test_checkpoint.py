"""Safetensors folders: what is read, how it is rounded, and that no damaged file gets past the opening."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bindings.dtypes import bf16_to_float32, float32_to_bf16
from engine.checkpoint import expected_tensors, open_checkpoint
from engine.errors import ModelError
from engine.rounding import PIECE
from engine.safetensors_file import SafetensorsFile
from tests.tiny_model import (
    join_safetensors,
    random_weights,
    read_config,
    safetensors_parts,
    stored_as,
    write_folder,
    write_json,
    write_safetensors,
)

Q_PROJ = "model.layers.0.self_attn.q_proj.weight"


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
@pytest.mark.parametrize("tied", [False, True])
def test_every_tensor_is_read_and_rounded_once(tmp_path: Path, dtype: str, tied: bool) -> None:
    weights = write_folder(tmp_path, dtype, tie_word_embeddings=tied)
    with open_checkpoint(tmp_path) as checkpoint:
        assert checkpoint.tensor_names == tuple(weights)
        assert ("lm_head.weight" in checkpoint.tensor_names) is not tied
        for name, values in weights.items():
            once = values.astype(np.float16).astype(np.float32) if dtype == "F16" else values
            got = checkpoint.tensor(name)
            assert got.dtype == np.uint16
            assert np.array_equal(got, float32_to_bf16(once)), name


def test_bf16_is_a_view_of_the_file(tmp_path: Path) -> None:
    write_folder(tmp_path)
    checkpoint = open_checkpoint(tmp_path)
    first, second = checkpoint.tensor(Q_PROJ), checkpoint.tensor(Q_PROJ)
    assert np.shares_memory(first, second)
    assert not first.flags.writeable
    before = first.copy()
    checkpoint.close()
    assert np.array_equal(first, before), "an array handed out must outlive the checkpoint"


def test_unaligned_bf16_is_copied_into_place(tmp_path: Path) -> None:
    """A header of odd length is allowed; NumPy and a device copy want aligned values."""
    values = np.arange(6, dtype=np.uint16).reshape(2, 3)
    header, data = safetensors_parts({"x": ("BF16", values)})
    encoded = json.dumps(header).encode()
    path = tmp_path / "odd.safetensors"
    path.write_bytes(join_safetensors(encoded + b" " * (1 - len(encoded) % 2), data))
    file = SafetensorsFile(path)
    assert file.data_start % 2 == 1
    assert np.array_equal(file.read("x"), values)
    assert file.read("x").flags.aligned


@pytest.mark.parametrize("dtype", ["F16", "F32"])
@pytest.mark.parametrize("count", [PIECE - 1, PIECE, PIECE + 1, 2 * PIECE + 3])
def test_rounding_in_pieces_misses_none(tmp_path: Path, dtype: str, count: int) -> None:
    values = np.random.default_rng(count).standard_normal(count, np.float32)
    stored = stored_as(dtype, values)
    write_safetensors(tmp_path / "x.safetensors", {"x": stored})
    expected = float32_to_bf16(stored[1].astype(np.float32))
    assert np.array_equal(SafetensorsFile(tmp_path / "x.safetensors").read("x"), expected)


def test_rounding_is_to_nearest_even(tmp_path: Path) -> None:
    # bf16 numbers next to 1 are 1/128 apart; halves go to the even neighbour.
    values = np.array([1.0, 1 + 1 / 256, 1 + 3 / 256, 1 + 1 / 256 + 1e-6, -1 - 1 / 256, 3e38, np.inf], np.float32)
    write_safetensors(tmp_path / "x.safetensors", {"x": ("F32", values)})
    got = bf16_to_float32(SafetensorsFile(tmp_path / "x.safetensors").read("x"))
    assert got[:5].tolist() == [1.0, 1.0, 1 + 2 / 128, 1 + 1 / 128, -1.0]
    assert abs(got[5] / 3e38 - 1) <= 2**-8
    assert got[6] == np.inf


def shard(folder: Path, **changes: Any) -> dict[str, str]:
    """A folder with its weights in two files and an index; returns the index's weight_map."""
    weights = random_weights(read_config(folder, **changes))
    files = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    weight_map = {name: files[i % 2] for i, name in enumerate(weights)}
    for file in files:
        write_safetensors(folder / file, {n: stored_as("BF16", v) for n, v in weights.items() if weight_map[n] == file})
    write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": weight_map})
    return weight_map


def test_shards_are_read_as_one(tmp_path: Path) -> None:
    shard(tmp_path)
    weights = random_weights(read_config(tmp_path))
    with open_checkpoint(tmp_path) as checkpoint:
        for name, values in weights.items():
            assert np.array_equal(checkpoint.tensor(name), float32_to_bf16(values)), name


def test_a_file_that_the_index_does_not_name_is_not_read(tmp_path: Path) -> None:
    weight_map = shard(tmp_path)
    for name in ("consolidated.safetensors", "model-00003-of-00003.safetensors"):
        (tmp_path / name).write_bytes(b"not safetensors at all")
    with open_checkpoint(tmp_path) as checkpoint:
        assert set(checkpoint.tensor_names) == set(weight_map)


def test_a_buffer_of_old_converters_need_not_be_in_the_index(tmp_path: Path) -> None:
    weight_map = shard(tmp_path)
    weights = random_weights(read_config(tmp_path))
    first = sorted(set(weight_map.values()))[0]
    stored = {name: stored_as("BF16", values) for name, values in weights.items() if weight_map[name] == first}
    stored["model.layers.0.self_attn.rotary_emb.inv_freq"] = ("F64", np.zeros(32))
    write_safetensors(tmp_path / first, stored)
    with open_checkpoint(tmp_path) as checkpoint:
        assert set(checkpoint.tensor_names) == set(weight_map)


def damage_index(folder: Path, weight_map: dict[str, str], damage: str) -> None:
    first, second = sorted(set(weight_map.values()))
    index = folder / "model.safetensors.index.json"
    if damage == "shard missing":
        (folder / second).unlink()
    elif damage == "tensor elsewhere":
        write_json(index, {"weight_map": {**weight_map, Q_PROJ: first if weight_map[Q_PROJ] == second else second}})
    elif damage == "tensor twice":
        (folder / second).write_bytes((folder / first).read_bytes())
    elif damage == "outside":
        write_json(index, {"weight_map": {**weight_map, Q_PROJ: "../x.safetensors"}})
    elif damage == "tensor not in it":
        write_json(index, {"weight_map": {name: file for name, file in weight_map.items() if name != Q_PROJ}})
    elif damage == "too few":
        for old in (first, second):
            (folder / old).rename(folder / old.replace("of-00002", "of-00003"))
        renamed = {name: file.replace("of-00002", "of-00003") for name, file in weight_map.items()}
        write_json(index, {"weight_map": renamed})
    elif damage == "no map":
        write_json(index, {"metadata": {}})
    elif damage == "no names":
        write_json(index, {"weight_map": {Q_PROJ: 3}})
    else:
        raise AssertionError(damage)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("shard missing", r"model-00002-of-00002\.safetensors: is missing; \S+ places model\.\S+ and \d+ more there"),
        ("tensor elsewhere", rf"model-0000\d-of-00002\.safetensors: lacks tensor {Q_PROJ}, which model\.safetensors\."),
        ("tensor not in it", rf"model-0000\d-of-00002\.safetensors: has tensor {Q_PROJ}, which \S+ does not name;"),
        ("tensor twice", r"model-00002-of-00002\.safetensors: tensor \S+ is in model-00001-of-00002\.safetensors too"),
        ("too few", r"index\.json: names model-00001-of-00003\.\S+ model-00002-of-00003\.\S+ which are not 3; fetch"),
        ("outside", r'weight_map names "\.\./x\.safetensors"; expected a file of the same folder'),
        ("no map", r"index\.json: weight_map is null; expected an object"),
        ("no names", r"index\.json: weight_map is \{.*; expected an object"),
    ],
)
def test_broken_index_is_named(tmp_path: Path, damage: str, message: str) -> None:
    damage_index(tmp_path, shard(tmp_path), damage)
    with pytest.raises(ModelError, match=message) as caught:
        open_checkpoint(tmp_path)
    assert str(tmp_path) in str(caught.value)


Change = Callable[[dict[str, Any]], None]


def rename(old: str, new: str) -> Change:
    def change(tensors: dict[str, Any]) -> None:
        tensors[new] = tensors.pop(old)

    return change


def reshape(name: str, shape: tuple[int, ...]) -> Change:
    def change(tensors: dict[str, Any]) -> None:
        tensors[name] = stored_as("BF16", np.zeros(shape, np.float32))

    return change


def drop(*names: str) -> Change:
    def change(tensors: dict[str, Any]) -> None:
        for name in names:
            del tensors[name]

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop(Q_PROJ), rf"lacks tensor {Q_PROJ} \[256, 64\]; fetch the model again"),
        (drop(Q_PROJ, "model.norm.weight"), rf"lacks tensor {Q_PROJ} \[256, 64\] and 1 more; fetch"),
        (drop("lm_head.weight"), r"lacks tensor lm_head\.weight \[48, 64\]"),
        (reshape(Q_PROJ, (64, 256)), rf"tensor {Q_PROJ} has shape \[64, 256\]; .* asks for \[256, 64\]"),
        (reshape("model.norm.weight", (64, 1)), r"model\.norm\.weight has shape \[64, 1\]; .* asks for \[64\]"),
        (reshape("extra", (1,)), r"has tensors that LlamaForCausalLM does not have: extra$"),
        (reshape("model.layers.2.mlp.up_proj.weight", (32, 64)), r"does not have: model\.layers\.2\.mlp\.up_proj"),
        (
            reshape("model.layers.0.self_attn.q_proj.bias", (256,)),
            r"does not have: model\.layers\.0\.self_attn\.q_proj\.b",
        ),
    ],
)
def test_wrong_tensors_are_named(tmp_path: Path, change: Change, message: str) -> None:
    weights = write_folder(tmp_path)
    stored = {name: stored_as("BF16", values) for name, values in weights.items()}
    change(stored)
    write_safetensors(tmp_path / "model.safetensors", stored)
    with pytest.raises(ModelError, match=message) as caught:
        open_checkpoint(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path}: ")


def test_many_unknown_tensors_are_counted(tmp_path: Path) -> None:
    weights = write_folder(tmp_path)
    stored = {name: stored_as("BF16", values) for name, values in weights.items()}
    stored |= {f"extra.{i}": stored_as("BF16", np.zeros(1, np.float32)) for i in range(5)}
    write_safetensors(tmp_path / "model.safetensors", stored)
    with pytest.raises(ModelError, match=r"does not have: extra\.0, extra\.1, extra\.2 and 2 more$"):
        open_checkpoint(tmp_path)


def test_harmless_tensors_are_passed_over(tmp_path: Path) -> None:
    weights = write_folder(tmp_path, tie_word_embeddings=True)
    stored = {name: stored_as("BF16", values) for name, values in weights.items()}
    stored["model.layers.0.self_attn.rotary_emb.inv_freq"] = ("F64", np.zeros(32))
    stored["lm_head.weight"] = stored["model.embed_tokens.weight"]
    write_safetensors(tmp_path / "model.safetensors", stored)
    with open_checkpoint(tmp_path) as checkpoint:
        assert checkpoint.tensor_names == tuple(weights)


def test_closed_and_unknown_are_errors(tmp_path: Path) -> None:
    write_folder(tmp_path)
    checkpoint = open_checkpoint(tmp_path)
    with pytest.raises(ModelError, match="has no tensor lm_tail"):
        checkpoint.tensor("lm_tail")
    checkpoint.close()
    checkpoint.close()
    with pytest.raises(ModelError, match=r"the checkpoint is closed; open it again to read model\.norm\.weight"):
        checkpoint.tensor("model.norm.weight")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], r"has no config\.json, as Hugging Face models have it"),
        (["b.gguf", "a.gguf"], r"has no config\.json; to run a\.gguf, give that file"),
        (["config.json"], r"has neither model\.safetensors nor model\.safetensors\.index\.json$"),
        (["config.json", "pytorch_model.bin"], r"pytorch_model\.bin is not read, fetch the safetensors files"),
    ],
)
def test_incomplete_folder_says_what_lacks(tmp_path: Path, names: list[str], message: str) -> None:
    for name in names:
        (tmp_path / name).write_text("{}")
    with pytest.raises(ModelError, match=message) as caught:
        open_checkpoint(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path}: ")


# One file, damaged in every way


def two_tensors() -> tuple[dict[str, Any], bytes]:
    return safetensors_parts(
        {
            "a": ("BF16", np.arange(6, dtype=np.uint16).reshape(2, 3)),
            "b": ("F32", np.arange(4, dtype=np.float32)),
        }
    )


def test_every_cut_of_a_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    whole = join_safetensors(*two_tensors())
    path.write_bytes(whole)
    assert SafetensorsFile(path).tensors.keys() == {"a", "b"}
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(ModelError) as caught:
            SafetensorsFile(path)
        assert str(caught.value).startswith(f"{path}: ")


def entry(**changes: Any) -> Change:
    def change(header: dict[str, Any]) -> None:
        header["b"] = {**header["b"], **changes}

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (entry(dtype="F8_E8M0"), r"tensor b is stored as F8_E8M0; only BF16, F16, F32 are supported"),
        (entry(dtype=None), r"tensor b is \{.*; expected dtype, shape and two data_offsets"),
        (entry(shape="4"), r"tensor b is \{.*; expected dtype"),
        (entry(shape=[4.0]), r"tensor b is \{.*; expected dtype"),
        (entry(shape=[-4]), r"tensor b is \{.*; expected dtype"),
        (entry(shape=[True] * 4), r"tensor b is \{.*; expected dtype"),
        (entry(data_offsets=[12]), r"tensor b is \{.*; expected dtype"),
        (entry(data_offsets=[28, 12]), r"tensor b \[4\] F32 needs 16 bytes, has -16"),
        (entry(shape=[5]), r"tensor b \[5\] F32 needs 20 bytes, has 16"),
        (entry(shape=[2**62, 2**62]), r"tensor b \[\d+, \d+\] F32 needs \d{30,} bytes, has 16"),
        (entry(data_offsets=[8, 24]), r"tensor b at byte 8 overlaps a"),
        (entry(data_offsets=[16, 32]), r"tensor b at byte 16 leaves a gap after a"),
        (entry(shape=[5], data_offsets=[12, 32]), r"tensor b ends at byte 32 of 28"),
        (entry(shape=[3], data_offsets=[12, 24]), r"4 bytes follow the last tensor"),
        (lambda header: header.pop("a"), r"tensor b at byte 12 leaves a gap after the header"),
        (lambda header: header.update(b=3), r"tensor b is 3; expected dtype"),
        (lambda header: header.clear(), r"28 bytes follow the last tensor"),
    ],
)
def test_inconsistent_header_is_named(tmp_path: Path, change: Change, message: str) -> None:
    header, data = two_tensors()
    change(header)
    path = tmp_path / "x.safetensors"
    path.write_bytes(join_safetensors(header, data))
    with pytest.raises(ModelError, match=message) as caught:
        SafetensorsFile(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        ((2**63).to_bytes(8, "little") + b"{}", "a header of 9223372036854775808 bytes in a file of 10"),
        (join_safetensors(b"[]", b""), r"its header is \[\]; expected a JSON object"),
        (join_safetensors(b"{,}", b""), "its header is not valid JSON"),
        (join_safetensors(b"\xff\xff", b""), "its header is not valid JSON"),
        (join_safetensors(b"[" * 200_000, b""), "its header is not valid JSON"),
        (join_safetensors(b'{"a": {}, "a": {}}', b""), "its header is not valid JSON .a is in it twice"),
    ],
)
def test_broken_header_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=message):
        SafetensorsFile(path)


@pytest.mark.parametrize("dtype", ["F64", "I8", "F8_E4M3"])
def test_types_that_are_no_weights_are_refused_when_read(tmp_path: Path, dtype: str) -> None:
    itemsize = 8 if dtype == "F64" else 1
    header = {"x": {"dtype": dtype, "shape": [3], "data_offsets": [0, 3 * itemsize]}}
    path = tmp_path / "x.safetensors"
    path.write_bytes(join_safetensors(header, bytes(3 * itemsize)))
    with pytest.raises(ModelError, match=f"tensor x is stored as {dtype}; only BF16, F16, F32 are supported"):
        SafetensorsFile(path).read("x")


@pytest.fixture(scope="module")
def damaged_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("damaged") / "x.safetensors"


@given(st.data())
def test_a_flipped_byte_is_read_or_refused(damaged_path: Path, data: st.DataObject) -> None:
    """Whatever a damaged header says, it ends in values or in a ModelError, never in another exception."""
    whole = bytearray(join_safetensors(*two_tensors()))
    for _ in range(data.draw(st.integers(1, 3))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    damaged_path.write_bytes(whole)
    try:
        file = SafetensorsFile(damaged_path)
        for name, tensor in file.tensors.items():
            assert file.read(name).shape == tensor.shape
    except ModelError as error:
        assert str(damaged_path) in str(error)


def test_expected_tensors_are_the_models(tmp_path: Path) -> None:
    expected = expected_tensors(read_config(tmp_path, num_hidden_layers=1))
    assert expected == {
        "model.embed_tokens.weight": (48, 64),
        "model.layers.0.input_layernorm.weight": (64,),
        "model.layers.0.self_attn.q_proj.weight": (256, 64),
        "model.layers.0.self_attn.k_proj.weight": (128, 64),
        "model.layers.0.self_attn.v_proj.weight": (128, 64),
        "model.layers.0.self_attn.o_proj.weight": (64, 256),
        "model.layers.0.post_attention_layernorm.weight": (64,),
        "model.layers.0.mlp.gate_proj.weight": (32, 64),
        "model.layers.0.mlp.up_proj.weight": (32, 64),
        "model.layers.0.mlp.down_proj.weight": (64, 32),
        "model.norm.weight": (64,),
        "lm_head.weight": (48, 64),
    }
