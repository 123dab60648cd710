"""A GGUF model in several files: read as one, and each broken part named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from bindings.dtypes import float32_to_bf16
from engine.checkpoint import open_checkpoint
from engine.errors import ModelError
from tests.tiny_model import gguf_tensors, random_weights, read_config, write_gguf

Weights = dict[str, NDArray[np.float32]]


@pytest.fixture
def weights(tmp_path: Path) -> Weights:
    return random_weights(read_config(tmp_path))


@pytest.fixture
def parts(tmp_path: Path, weights: Weights) -> list[Path]:
    """The model of `weights` as the gguf package splits it."""
    tensors = gguf_tensors(read_config(tmp_path), weights)
    write_gguf(tmp_path / "tiny.gguf", tensors, split_max_tensors=8)
    files = sorted(tmp_path.glob("tiny-0000?-of-00003.gguf"))
    assert len(files) == 3 and len(tensors) == 21
    return files


def test_a_split_model_is_read_as_one(parts: list[Path], weights: Weights) -> None:
    with open_checkpoint(parts[0]) as checkpoint:
        assert checkpoint.tensor_names == tuple(weights)
        for name, values in weights.items():
            assert np.array_equal(checkpoint.tensor(name), float32_to_bf16(values)), name


def damage_parts(parts: list[Path], damage: str) -> Path:
    first, second, third = parts
    if damage == "part missing":
        second.unlink()
    elif damage == "part twice":
        third.write_bytes(second.read_bytes())
    elif damage == "part cut":
        third.write_bytes(third.read_bytes()[:-64])
    elif damage == "renamed":
        first = first.rename(first.with_name("tiny.gguf"))
    elif damage == "not the first":
        first = second
    elif damage == "tensor twice":
        content = second.read_bytes()
        number = content.index(b"split.no") + len("split.no") + 4
        third.write_bytes(content[:number] + (2).to_bytes(2, "little") + content[number + 2 :])
    else:
        raise AssertionError(damage)
    return first


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("part missing", r"tiny-00002-of-00003\.gguf: cannot be read: No such file"),
        ("part twice", r"tiny-00003-of-00003\.gguf: is not part 3 of 3, as its name has it; fetch it again"),
        ("part cut", r"tiny-00003-of-00003\.gguf: tensor \S+ ends at byte \d+ of \d+; the file is cut short"),
        ("renamed", r"tiny\.gguf: is part 1 of 3, but not named like NAME-00001-of-00003\.gguf"),
        ("not the first", r"is part 2 of 3; give the first one, tiny-00001-of-00003\.gguf"),
        ("tensor twice", r"tiny-00003-of-00003\.gguf: tensor \S+ is in tiny-00002-of-00003\.gguf too"),
    ],
)
def test_broken_parts_are_named(parts: list[Path], damage: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        open_checkpoint(damage_parts(parts, damage))
