"""A thousand damaged files for each reader of model files: it is read, or refused by a ModelError, in bounded memory.

In CI Hypothesis derives the same files each time; elsewhere every run tries others.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.checkpoint import open_checkpoint
from engine.detokenize import IncrementalDecoder
from engine.errors import ModelError, UsageError
from engine.gguf_header import GgufHeader, read_gguf_header
from engine.safetensors_file import SafetensorsFile
from engine.tokenizer import Tokenizer, load_tokenizer, tokenizer_from_gguf
from tests.mutations import bounded_memory, damaged_bytes, damaged_json, damaged_json_bytes
from tests.tiny_model import (
    HF_CONFIG,
    gguf_tensors,
    join_safetensors,
    random_weights,
    read_config,
    safetensors_parts,
    write_folder,
    write_gguf,
    write_json,
)
from tests.tiny_tokenizer import byte_level_metadata, sentencepiece_metadata

# The files are below 100 KB. Threads that Rust starts reserve addresses of 64 MB each.
MEMORY = 512 * 1024 * 1024
a_thousand = settings(
    max_examples=1000, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@pytest.fixture(autouse=True)
def memory_is_bounded() -> Iterator[None]:
    with bounded_memory(MEMORY):
        yield


def read_or_refused(read: Callable[[Path], None], path: Path) -> None:
    """`read` may raise a ModelError of one line that names the path, or a UsageError; nothing else."""
    try:
        read(path)
    except ModelError as error:
        text = str(error)
        assert str(path) in text and "\n" not in text and len(text) < 2000, text
    except UsageError as error:  # a chat template may refuse the messages
        assert "\n" not in str(error)


def use(tokenizer: Tokenizer) -> None:
    """Everything that the engine asks of a tokenizer."""
    ids = tokenizer.encode("hello wörld 12\n<s>")
    tokenizer.decode(ids)
    decoder = IncrementalDecoder(tokenizer)
    decoder.push([*ids, 0, 5, 10**6])
    decoder.finish()
    tokenizer.apply_chat_template([{"role": "user", "content": "hi"}])


# safetensors

TWO_TENSORS = {
    "a": ("BF16", np.arange(6, dtype=np.uint16).reshape(2, 3)),
    "b": ("F32", np.arange(4, dtype=np.float32)),
}
HEADER, DATA = safetensors_parts(TWO_TENSORS)


def read_safetensors(path: Path) -> None:
    file = SafetensorsFile(path)
    for name, tensor in file.tensors.items():
        assert file.read(name).shape == tensor.shape


@a_thousand
@given(
    content=st.one_of(
        damaged_json(HEADER).map(lambda header: join_safetensors(header, DATA)),
        damaged_bytes(join_safetensors(HEADER, DATA)),
    )
)
def test_safetensors(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    read_or_refused(read_safetensors, path)


# GGUF


@pytest.fixture(scope="module", params=[byte_level_metadata, sentencepiece_metadata], ids=["gpt2", "llama"])
def gguf_file(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of one layer with a vocabulary."""
    folder = tmp_path_factory.mktemp("gguf")
    config = read_config(folder, num_hidden_layers=1, vocab_size=8)
    changes = {"llama.block_count": 1, "llama.vocab_size": 8, **request.param()}
    path = folder / "whole.gguf"
    write_gguf(path, gguf_tensors(config, random_weights(config)), GGMLQuantizationType.Q4_0, **changes)
    return path


def read_gguf(path: Path) -> None:
    with open_checkpoint(path) as checkpoint:
        for name in checkpoint.tensor_names:
            checkpoint.tensor(name)
    use(load_tokenizer(path))


def test_gguf(gguf_file: Path) -> None:
    whole = gguf_file.read_bytes()
    header = min(tensor.offset for tensor in read_gguf_header(gguf_file).tensors.values())

    @settings(a_thousand, max_examples=500)  # twice: one for each kind of vocabulary
    @given(content=damaged_bytes(whole, near=header))
    def check(content: bytes) -> None:
        path = gguf_file.with_name("damaged.gguf")
        path.write_bytes(content)
        read_or_refused(read_gguf, path)

    check()


@a_thousand
@given(metadata=st.one_of(damaged_json(byte_level_metadata()), damaged_json(sentencepiece_metadata())))
def test_gguf_vocabulary(metadata: dict[str, Any]) -> None:
    """The values alone: few changes of bytes leave a header that can be read to its end."""
    read_or_refused(lambda path: use(tokenizer_from_gguf(GgufHeader(path, metadata, {}))), Path("tiny.gguf"))


# config.json

GENERATION = {"bos_token_id": 1, "eos_token_id": [2, 3], "temperature": 0.6, "top_p": 0.9, "do_sample": True}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("folder")
    write_folder(path)
    return path


def read_folder(path: Path) -> None:
    open_checkpoint(path).close()


@a_thousand
@given(
    content=st.one_of(
        damaged_json_bytes(HF_CONFIG),
        damaged_json_bytes({**HF_CONFIG, "rope_scaling": LLAMA3}),
        damaged_json_bytes({**HF_CONFIG, "architectures": ["MistralForCausalLM"], "sliding_window": 256}),
    )
)
def test_config(folder: Path, content: bytes) -> None:
    write_json(folder / "generation_config.json", GENERATION)
    (folder / "config.json").write_bytes(content)
    read_or_refused(read_folder, folder)


@settings(a_thousand, max_examples=300)
@given(content=damaged_json_bytes(GENERATION))
def test_generation_config(folder: Path, content: bytes) -> None:
    write_json(folder / "config.json", HF_CONFIG)
    (folder / "generation_config.json").write_bytes(content)
    read_or_refused(read_folder, folder)


# tokenizer.json


def tokenizer_json(metadata: dict[str, Any]) -> dict[str, Any]:
    """The metadata's tokenizer as Hugging Face stores it."""
    content: dict[str, Any] = json.loads(
        tokenizer_from_gguf(GgufHeader(Path("tiny.gguf"), metadata, {})).backend.to_str()
    )
    return content


SETTINGS = {
    "bos_token": "<s>",
    "eos_token": {"content": "</s>", "special": True},
    "chat_template": [{"name": "default", "template": "{{ messages[0].content }}{{ eos_token }}"}],
}


@a_thousand
@given(
    content=st.one_of(
        damaged_json_bytes(tokenizer_json(byte_level_metadata(add_bos_token=True))),
        damaged_json_bytes(tokenizer_json(sentencepiece_metadata())),
    )
)
def test_tokenizer(folder: Path, content: bytes) -> None:
    write_json(folder / "tokenizer_config.json", SETTINGS)
    (folder / "tokenizer.json").write_bytes(content)
    read_or_refused(lambda path: use(load_tokenizer(path)), folder)


@settings(a_thousand, max_examples=300)
@given(content=damaged_json_bytes(SETTINGS))
def test_tokenizer_config(folder: Path, content: bytes) -> None:
    write_json(folder / "tokenizer.json", tokenizer_json(byte_level_metadata()))
    (folder / "tokenizer_config.json").write_bytes(content)
    read_or_refused(lambda path: use(load_tokenizer(path)), folder)


def test_memory_bound_holds() -> None:
    """A reader that believed a length of gigabytes would end here."""
    with pytest.raises(MemoryError):
        bytearray(4 * MEMORY)
