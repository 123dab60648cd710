"""Where a model comes from: stored files, or a shape alone, for random weights made on the device (vLLM's `dummy`)."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Literal, Protocol, get_args

from bindings.device import Device
from engine.checkpoint import open_checkpoint
from engine.config import ModelConfig
from engine.errors import ModelError, UsageError
from engine.generation_config import GenerationConfig, read_generation_config
from engine.model_files import resolve_model
from engine.progress import Progress
from engine.random_model import SHAPES, config_of
from engine.tokenizer import NoTokenizer, Tokenizer, load_tokenizer
from engine.weights import LlamaWeights, load_weights, random_weights

LoadFormat = Literal["auto", "dummy"]


class ModelSource(Protocol):
    """A model before its weights are on a device. Usable in a `with`."""

    config: ModelConfig
    tokenizer: Tokenizer
    generation_config: GenerationConfig

    def load(self, device: Device, progress: Progress) -> LlamaWeights:
        """The weights on `device`. Raises CudaError when they do not fit."""

    def close(self) -> None:
        """Let go of the files."""


class StoredModel:
    """A folder, a `.gguf` file, or a name on the hub, fetched where needed."""

    def __init__(self, model: str | None, revision: str | None, progress: Progress) -> None:
        path = resolve_model(model, progress, revision)
        with ExitStack() as undo:
            self._checkpoint = undo.enter_context(open_checkpoint(path))
            self.config = self._checkpoint.config
            self.tokenizer, self.generation_config = load_tokenizer(path), read_generation_config(path)
            undo.pop_all()

    def load(self, device: Device, progress: Progress) -> LlamaWeights:
        """The stored weights."""
        return load_weights(device, self._checkpoint, progress)

    def close(self) -> None:
        """Let go of the files."""
        self._checkpoint.close()


class DummyModel:
    """A named shape, or the shape of a folder's config.json, with random weights and without a tokenizer.

    Nothing is fetched. Without another tokenizer prompts must be token ids, and the texts of answers stay empty.
    """

    def __init__(self, model: str | None, revision: str | None, seed: int) -> None:
        if revision is not None:
            raise UsageError(f"revision {revision!r} is for a name on the hub; load_format='dummy' fetches nothing")
        folder = Path(model or "").expanduser()
        if model and (folder / "config.json").is_file():
            self.config, self.generation_config = ModelConfig.from_hf(folder), read_generation_config(folder)
        elif model in SHAPES:
            self.config, self.generation_config = config_of(model), GenerationConfig(model)
        else:
            shapes = ", ".join(SHAPES)
            raise ModelError(f"random weights for {model!r}: give one of {shapes}, or a folder with a config.json")
        self.tokenizer: Tokenizer = NoTokenizer(f"{model} with random weights")
        self._seed = seed

    def load(self, device: Device, progress: Progress) -> LlamaWeights:
        """Random weights."""
        return random_weights(device, self.config, self._seed, progress)

    def close(self) -> None:
        """Nothing is open."""


def open_model(
    model: str | None, load_format: LoadFormat, revision: str | None, seed: int, progress: Progress
) -> ModelSource:
    """The model that `model` names in this format; `seed` is for random weights.

    Raises ModelError for what is wrong with it, UsageError for options that do not go together.
    """
    if load_format not in get_args(LoadFormat):
        raise UsageError(f"load_format is {load_format!r}; it must be one of {', '.join(get_args(LoadFormat))}")
    return DummyModel(model, revision, seed) if load_format == "dummy" else StoredModel(model, revision, progress)
