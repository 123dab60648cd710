"""A model's weights by name, as bf16, whichever format they lie in.

`open_checkpoint` reads headers only; a tensor's bytes are read, dequantised or rounded when it is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from engine.config import ModelConfig
from engine.errors import ModelError
from engine.meta_checkpoint import MetaWeights, check_meta_folder, is_meta_folder
from engine.safetensors_file import INDEX, SINGLE, SafetensorsWeights

LM_HEAD = "lm_head.weight"

Shape = tuple[int, ...]


class Weights(Protocol):
    """What each format offers: names are Hugging Face's, and so is the order of a matrix's rows."""

    source: str  # the file or folder, for errors

    @property
    def shapes(self) -> Mapping[str, Shape]:
        """Shape of each stored tensor by name."""

    def read(self, name: str) -> NDArray[np.uint16]:
        """The tensor's bf16 bits, in its shape."""

    def close(self) -> None:
        """Let go of the files."""


class Checkpoint:
    """An opened model: `config`, `tensor_names` in the order of the forward pass, and `tensor(name)`.

    Usable in a `with`. Raises ModelError on opening when a tensor is missing, misshapen or unknown.
    """

    def __init__(self, config: ModelConfig, weights: Weights) -> None:
        expected = expected_tensors(config)
        check_tensors(expected, weights.shapes, config, weights.source)
        self.config = config
        self.tensor_names = tuple(expected)
        self._weights: Weights | None = weights
        self._source = weights.source

    def tensor(self, name: str) -> NDArray[np.uint16]:
        """bf16 bits of one tensor, in its Hugging Face shape and row order.

        A zero-copy, read-only view of the file where that stores bf16; else a new array each time.
        Raises ModelError for an unknown name or after `close`.
        """
        if self._weights is None:
            raise ModelError(f"{self._source}: the checkpoint is closed; open it again to read {name}")
        if name not in self.tensor_names:
            raise ModelError(f"{self._source}: has no tensor {name}")
        return self._weights.read(name)

    def close(self) -> None:
        """Let go of the files. Arrays already handed out stay valid."""
        if self._weights is not None:
            self._weights.close()
            self._weights = None

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_checkpoint(path: str | Path) -> Checkpoint:
    """Open a Hugging Face folder, Meta's folder of Llama 3, or a `.gguf` file.

    Raises ModelError naming the file, the tensor or field in it, and the remedy.
    """
    path = Path(path)
    if path.is_dir():
        check_folder(path)
        if is_meta_folder(path):
            meta_weights = MetaWeights(path)
            return Checkpoint(meta_weights.config, meta_weights)
        return Checkpoint(ModelConfig.from_hf(path), SafetensorsWeights(path))
    # Here and not above: importing gguf takes 0.07 s, which a safetensors folder need not pay.
    from engine.gguf_model import GgufWeights

    gguf_weights = GgufWeights(path)
    return Checkpoint(gguf_weights.config, gguf_weights)


def check_folder(folder: Path) -> None:
    """Raise ModelError if `folder` lacks config.json or weights, saying which and what is there instead."""
    if is_meta_folder(folder):
        return check_meta_folder(folder)
    if not (folder / "config.json").is_file():
        found = sorted(folder.glob("*.gguf"))
        instead = f"; to run {found[0].name}, give that file" if found else ", as Hugging Face models have it"
        if is_meta_folder(folder / "original"):
            instead = f"; to run Meta's own checkpoint in it, give {folder / 'original'}"
        raise ModelError(f"{folder}: has no config.json{instead}")
    if not (folder / SINGLE).is_file() and not (folder / INDEX).is_file():
        pickled = sorted(folder.glob("pytorch_model*.bin"))
        instead = f"; {pickled[0].name} is not read, fetch the safetensors files" if pickled else ""
        raise ModelError(f"{folder}: has neither {SINGLE} nor {INDEX}{instead}")


def expected_tensors(config: ModelConfig) -> dict[str, Shape]:
    """Every tensor of the model by its Hugging Face name, with its shape; matrices are [outputs, inputs]."""
    hidden, mlp = config.hidden_size, config.intermediate_size
    queries, keys = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    shapes: dict[str, Shape] = {"model.embed_tokens.weight": (config.vocab_size, hidden)}
    for layer in range(config.num_layers):
        prefix = f"model.layers.{layer}."
        shapes[f"{prefix}input_layernorm.weight"] = (hidden,)
        shapes[f"{prefix}self_attn.q_proj.weight"] = (queries, hidden)
        shapes[f"{prefix}self_attn.k_proj.weight"] = (keys, hidden)
        shapes[f"{prefix}self_attn.v_proj.weight"] = (keys, hidden)
        shapes[f"{prefix}self_attn.o_proj.weight"] = (hidden, queries)
        shapes[f"{prefix}post_attention_layernorm.weight"] = (hidden,)
        shapes[f"{prefix}mlp.gate_proj.weight"] = (mlp, hidden)
        shapes[f"{prefix}mlp.up_proj.weight"] = (mlp, hidden)
        shapes[f"{prefix}mlp.down_proj.weight"] = (hidden, mlp)
    shapes["model.norm.weight"] = (hidden,)
    if not config.tie_word_embeddings:
        shapes[LM_HEAD] = (config.vocab_size, hidden)
    return shapes


def check_tensors(expected: Mapping[str, Shape], found: Mapping[str, Shape], config: ModelConfig, source: str) -> None:
    """Raise ModelError if a tensor is missing, has another shape than expected, or is unknown."""
    missing = [name for name in expected if name not in found]
    if missing:
        first = f"{missing[0]} {list(expected[missing[0]])}{_more(missing, 1)}"
        raise ModelError(f"{source}: lacks tensor {first}; fetch the model again")
    for name, shape in expected.items():
        if tuple(found[name]) != shape:
            raise ModelError(
                f"{source}: tensor {name} has shape {list(found[name])};"
                f" the model's configuration asks for {list(shape)}"
            )
    # Where the output matrix is the embedding, a second copy of it changes nothing.
    allowed = {*expected, LM_HEAD} if config.tie_word_embeddings else set(expected)
    unknown = [name for name in found if name not in allowed]
    if unknown:
        names = ", ".join(unknown[:3]) + _more(unknown, 3)
        raise ModelError(f"{source}: has tensors that {config.architecture} does not have: {names}")


def _more(names: list[str], told: int) -> str:
    return f" and {len(names) - told} more" if len(names) > told else ""
