"""Reading what torch.save wrote without torch: every tensor right, every damage named, and no pickle ever obeyed."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bindings.dtypes import float32_to_bf16
from engine.errors import ModelError
from engine.torch_file import TorchFile
from tests.tiny_meta import (
    hf_weights,
    meta_tensors,
    named,
    ordered_dict,
    tensor,
    text,
    torch_file,
    torch_fixture,
    whole,
)

MATRIX = np.arange(12, dtype=np.uint16).reshape(3, 4)


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def one_entry(value: bytes) -> bytes:
    """A pickle of a dictionary with one entry."""
    return b"\x80\x02" + ordered_dict() + b"(" + text("x") + value + b"u."


def test_a_file_of_torchs_is_read_exactly(tmp_path: Path) -> None:
    file = TorchFile(written(tmp_path / "x.pth", torch_fixture()))
    expected = meta_tensors(hf_weights())
    assert file.tensors.keys() == expected.keys()
    for name, values in expected.items():
        assert np.array_equal(file.read(name), float32_to_bf16(values)), name
    assert file.dtype("norm.weight") == "bfloat16"
    assert file.tensors["layers.0.feed_forward.w1.weight"].shape == (64, 128), "a view of a storage twice its size"


@pytest.mark.parametrize("dtype", [np.uint16, np.float16, np.float32])
def test_each_type_is_rounded_once(tmp_path: Path, dtype: type) -> None:
    values = np.random.default_rng(1).standard_normal((7, 5), np.float32)
    stored = float32_to_bf16(values) if dtype is np.uint16 else values.astype(dtype)
    read = TorchFile(written(tmp_path / "x.pth", torch_file({"x": stored}))).read("x")
    assert np.array_equal(read, stored if dtype is np.uint16 else float32_to_bf16(stored.astype(np.float32)))


def test_bf16_is_a_view_of_the_file(tmp_path: Path) -> None:
    file = TorchFile(written(tmp_path / "x.pth", torch_fixture()))
    first, second = file.read("norm.weight"), file.read("norm.weight")
    assert np.shares_memory(first, second) and not first.flags.writeable


@pytest.mark.parametrize(
    ("offset", "strides", "expected"),
    [
        (0, (4, 1), MATRIX),
        (4, (4, 1), MATRIX[1:]),
        (0, (1, 4), MATRIX.T[:3, :3]),
        (3, (0, 2), np.array([[3, 5], [3, 5]])),
    ],
)
def test_a_window_is_read_by_its_strides(
    tmp_path: Path, offset: int, strides: tuple[int, ...], expected: np.ndarray
) -> None:
    value = tensor("0", np.empty(expected.shape, np.uint16), offset, strides)
    file = TorchFile(written(tmp_path / "x.pth", torch_file({"x": MATRIX}, one_entry(value))))
    assert np.array_equal(file.read("x"), expected)
    assert file.read("x").flags.c_contiguous


class Shell:
    """What a hostile pickle would call."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, ("/tmp/cutaway-was-here", "w"))


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (pickle.dumps({"x": Shell()}), r"_?io\.open"),
        (one_entry(named("os", "system") + b"(" + text("true") + b"tR"), r"os\.system"),
        (one_entry(named("builtins", "eval") + b"(" + text("1") + b"tR"), r"builtins\.eval"),
        (one_entry(named("torch._utils", "_rebuild_tensor_v3")), r"torch\._utils\._rebuild_tensor_v3"),
        (one_entry(named("collections", "OrderedDict.fromkeys")), r"collections\.OrderedDict\.fromkeys"),
    ],
)
def test_a_pickle_that_names_anything_else_is_not_obeyed(tmp_path: Path, content: bytes, name: str) -> None:
    with pytest.raises(ModelError, match=rf"x\.pth: its data\.pkl names {name}, which .* it was not run$"):
        TorchFile(written(tmp_path / "x.pth", torch_file({"x": MATRIX}, content)))
    assert not Path("/tmp/cutaway-was-here").exists()


def test_a_storage_of_another_type_is_named(tmp_path: Path) -> None:
    content = torch_file({"x": np.zeros(4)})
    message = r"names torch\.DoubleStorage, which .*; only bfloat16, float16, float32 are supported"
    with pytest.raises(ModelError, match=message):
        TorchFile(written(tmp_path / "x.pth", content))


def state(value: bytes) -> bytes:
    """A pickle that gives `value` as the state of what stands before it."""
    return b"}" + b"(" + text("shape") + text("evil") + b"u" + value


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickle.dumps([1]), r"holds a list; expected tensors by name"),
        (pickle.dumps({}), r"holds a dict; expected tensors by name"),
        (pickle.dumps({"x": 1}), r"its entry 'x' is a int; expected a tensor"),
        (pickle.dumps({"model": {"x": 1}}), r"its entry 'model' is a dict; expected a tensor"),
        (b"", r"is not a pickle of tensors \(ValueError"),
        (b"\x80\x02garbage", r"is not a pickle of tensors \("),
        (one_entry(tensor("0", MATRIX, offset=1)), r"tensor x \[3, 4\] reaches element 12 of a storage of 12"),
        (one_entry(tensor("0", MATRIX, strides=(2**40, 1))), r"tensor x \[3, 4\] reaches element 2\d+ of a storage"),
        (
            one_entry(tensor("0", np.empty((13, 1), np.uint16), strides=(0, 0))),
            r"tensor x \[13, 1\] reaches element 12",
        ),
        (one_entry(tensor("0", MATRIX, strides=(-4, 1))), r"a tensor of offset, shape and strides \(0, 3, 4, -4, 1\)"),
        (one_entry(tensor("0", MATRIX, strides=(1,))), r"a tensor of offset, shape and strides \(0, 3, 4, 1\)"),
        (one_entry(tensor("7", MATRIX)), r"lacks its member data/7; the file is damaged"),
        (one_entry(tensor("../byteorder", MATRIX)), r"lacks its member data/\.\./byteorder"),
        (one_entry(b"(" + text("a") + text("b") + b"tQ"), r"refers to \('a', 'b'\); expected a storage"),
        (one_entry(whole(3) + b"Q"), r"refers to 3; expected a storage"),
        (b"\x80\x05\x96" + (3).to_bytes(8, "little") + b"abc.", r"has the opcode BYTEARRAY8, which is no part of"),
        (b"\x80\x02}r" + (2**30).to_bytes(4, "little") + b".", r"has the opcode LONG_BINPUT 1073741824, which"),
        # Nothing that a pickle is handed has attributes that it could set.
        (one_entry(tensor("0", MATRIX) + state(b"b")), r"is not a pickle of tensors \(AttributeError"),
        (one_entry(named("torch._utils", "_rebuild_tensor_v2") + state(b"b")), r"is not a pickle of tensors \("),
    ],
)
def test_a_broken_pickle_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = written(tmp_path / "x.pth", torch_file({"x": MATRIX}, content))
    with pytest.raises(ModelError, match=message) as caught:
        TorchFile(path)
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"is empty"),
        (b"PK", r"is no zip archive as torch\.save has written since version 1\.6"),
        (pickle.dumps({"x": 1}), r"is no zip archive"),
        (torch_file({"x": MATRIX}, compress=True), r"is compressed or encrypted"),
        (torch_file({"x": MATRIX}).replace(b"data.pkl", b"data.pk_"), r"but none that torch\.save wrote"),
        (torch_file({"x": MATRIX}).replace(b"little", b"big..."), r"big-endian"),
    ],
)
def test_a_file_of_another_kind_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        TorchFile(written(tmp_path / "x.pth", content))
    assert str(caught.value).startswith(f"{tmp_path / 'x.pth'}: ") and "\n" not in str(caught.value)


def test_every_cut_of_a_file_is_refused(tmp_path: Path) -> None:
    whole_file = torch_file({"x": MATRIX})
    assert TorchFile(written(tmp_path / "x.pth", whole_file)).tensors.keys() == {"x"}
    for length in range(len(whole_file)):
        with pytest.raises(ModelError):
            TorchFile(written(tmp_path / "x.pth", whole_file[:length]))


@pytest.fixture(scope="module")
def damaged_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("damaged") / "x.pth"


@given(st.data())
def test_a_flipped_byte_is_read_or_refused(damaged_path: Path, data: st.DataObject) -> None:
    """Whatever a damaged file says, it ends in values or in a ModelError, never in another exception."""
    content = bytearray(torch_file({"x": MATRIX, "y": np.ones(3, np.float32)}))
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        file = TorchFile(written(damaged_path, bytes(content)))
        for name, stored in file.tensors.items():
            assert file.read(name).shape == stored.shape
    except ModelError as error:
        assert str(damaged_path) in str(error)
