"""Recorded activations of one text, as a side to hold an engine against.

The file is an .npz archive of arrays, in any float type; what it lacks is not compared:

    token_ids                  int [T]        the whole text: the prompt, and the tokens that are decoded after it
    prompt_tokens              int            how many of them are the prompt
    embedding                  [T, H]         the rows of the embedding table
    layers.<i>.input_norm      [T, H]         what the attention of layer i reads
    layers.<i>.attention       [T, H]         what it adds to the residual stream: after the output projection
    layers.<i>.mlp             [T, H]         what the MLP adds to it
    layers.<i>.residual        [T, H]         the residual stream after layer i
    final_norm                 [T, H]         the normalised stream after the last layer
    logits                     [T - prompt_tokens + 1, V]    after the last token of the prompt and each one behind it

tests/fixtures/make_activation_fixture.py makes such a file with transformers, by hooks on its modules.

A norm is compared where the file has the stream that it reads, a residual where it has both updates of its layer. How
far an engine may lie from such a file: recorded_error.py.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile, is_zipfile

import numpy as np
from numpy.typing import NDArray

from bindings.errors import CutawayError
from tools.bisect.messages import Index, Operation, Output
from tools.bisect.place import place_of
from tools.bisect.recorded_error import SIGMAS, RecordedError

RECORDED = "recorded"  # stands for the operations that led to a recorded value
NAME = re.compile(r"embedding|final_norm|logits|layers\.\d+\.(input_norm|attention|mlp|residual)")
NORMS = ("attention", "final norm")  # labels of those that are recorded


class RecordingError(CutawayError):
    """A file that holds no recording, or one that does not fit the model."""


@dataclass(frozen=True)
class Point:
    """Where an engine's output is a recorded one: `name` in the file, `output` of the operation."""

    name: str
    output: str


class Recording:
    """A recording as side a: for each operation of the engine, what should have come out."""

    def __init__(self, path: Path) -> None:
        self._path, self._arrays = path, _read(path)
        for name, dimensions in (("token_ids", 1), ("prompt_tokens", 0)):
            array = self._arrays.get(name)
            if array is None or array.dtype.kind not in "iu" or array.ndim != dimensions:
                what = "a list of whole numbers" if dimensions else "a whole number"
                raise RecordingError(f"{path} is no recording: {name!r} must be in it, {what}")
        self.token_ids: list[int] = self._arrays["token_ids"].tolist()
        self.prompt_tokens = int(self._arrays["prompt_tokens"])
        if not 1 <= self.prompt_tokens <= len(self.token_ids):
            raise RecordingError(f"{path}: prompt_tokens is {self.prompt_tokens}, of {len(self.token_ids)} tokens")
        for name, array in self._arrays.items():
            if name not in ("token_ids", "prompt_tokens"):
                self._check(name, array)
        self._error = RecordedError(self._arrays)

    def _check(self, name: str, array: NDArray) -> None:
        """Raise RecordingError for an array of another name, type or number of tokens than the format has."""
        if not NAME.fullmatch(name):
            raise RecordingError(f"{self._path}: {name!r} is no name of the format; see tools/bisect/recording.py")
        rows = self.steps if name == "logits" else len(self.token_ids)
        if array.dtype.kind != "f" or array.ndim != 2 or len(array) != rows:
            shape = f"{array.dtype}{list(array.shape)}"
            raise RecordingError(f"{self._path}: {name} must be floats of {rows} rows, a token each, not {shape}")

    @property
    def _num_layers(self) -> int:
        layers = [int(name.split(".")[1]) for name in self._arrays if name.startswith("layers.")]
        return max(layers, default=-1) + 1

    @property
    def steps(self) -> int:
        """Steps of the engine that it reaches over: the prompt, then one for each further token."""
        return 1 + len(self.token_ids) - self.prompt_tokens

    def meet(self, operation: Operation) -> Operation | None:
        """What was recorded of this operation's outputs; None where nothing was."""
        outputs = {}
        for point in points_of(operation, self._num_layers):
            if self._error.is_known(point.name):
                outputs[point.output] = self._expected(point, operation)
        tokens = self._next_token(operation)
        if tokens is not None:
            outputs["token_ids"] = tokens
        return Operation(RECORDED, "", "", operation.label, "", outputs) if outputs else None

    def exact(self, output: str, index: Index) -> None:
        """What was recorded is the most exact there is."""

    def end(self) -> None:
        """A run may be shorter than the recorded text."""

    def proceed(self) -> None:
        """Nothing waits here."""

    def _next_token(self, operation: Operation) -> Output | None:
        """The token of the text that follows this step, which the engine is to read next, whatever it chose."""
        step = place_of(operation.label).step
        if operation.op != "argmax" or step >= self.steps:
            return None
        token = np.array([self.token_ids[self.prompt_tokens + step - 1]], np.int32)
        return Output(token, "i32", "", compared=False)

    def _expected(self, point: Point, operation: Operation) -> Output:
        mine, step = operation.outputs[point.output], place_of(operation.label).step
        rows = self._rows(step, point.name)
        values = self._arrays[point.name].astype(np.float32)[rows]
        if values.shape != mine.values.shape:
            shape = list(self._arrays[point.name].shape)
            raise RecordingError(
                f"{self._path}: {point.name} is {shape}, of which step {step} reads {list(values.shape)}; the engine "
                f"has {list(mine.values.shape)}: another model or text was recorded"
            )
        if mine.noise is not None:
            return Output(values, "f32", point.name, absolute=SIGMAS * mine.noise)
        return Output(values, "f32", point.name, absolute=self._error.of(point.name)[rows])

    def _rows(self, step: int, name: str) -> slice:
        """The recorded rows of a step: logits are of the last token of the prompt and of those behind it alone."""
        if name == "logits":
            return slice(step - 1, step)
        last = self.prompt_tokens + step - 1
        return slice(0 if step == 1 else last - 1, last)


def _read(path: Path) -> dict[str, NDArray]:
    """The arrays of an .npz archive. Raises RecordingError."""
    try:
        if is_zipfile(path):  # numpy takes other files for pickles
            with np.load(path) as file:
                return dict(file)
    except (ValueError, BadZipFile, EOFError, zlib.error):
        pass  # damaged, or objects in place of numbers
    raise RecordingError(f"{path} is no .npz archive of arrays of numbers")


def points_of(operation: Operation, num_layers: int) -> Iterator[Point]:
    """The recorded points that an operation's outputs are, in a model of so many layers."""
    place = place_of(operation.label)
    tensors = {name: output.tensor for name, output in operation.outputs.items()}
    if operation.op == "embedding" and place.part == "embedding":
        yield Point("embedding", "out")
    if operation.op in ("rmsnorm", "add_rmsnorm") and place.part in NORMS:
        yield Point("final_norm" if place.layer is None else f"layers.{place.layer}.input_norm", "out")
    if operation.op == "add_rmsnorm" and place.part in NORMS:
        behind = num_layers if place.layer is None else place.layer
        yield Point(f"layers.{behind - 1}.residual", "residual")
    if operation.op == "gemm" and tensors["out"].startswith("activations.update"):
        yield Point(f"layers.{place.layer}.{place.part}", "out")
    if operation.op == "gemm" and place.part == "lm head":
        yield Point("logits", "out")
