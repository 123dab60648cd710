"""A GGUF model in several files, as `llama-gguf-split` cuts it: model-00001-of-00003.gguf and so on.

The first file has all metadata; each has tensors of its own, and says which part it is (`split.no`, from 0) of how many
(`split.count`).
"""

from __future__ import annotations

import re
from pathlib import Path

from engine.errors import ModelError
from engine.fields import Fields
from engine.gguf_header import GgufHeader, read_gguf_header

_NAME = re.compile(r"(.*)-\d{5}-of-(\d{5})\.gguf", re.IGNORECASE)


def read_gguf_model(path: Path) -> GgufHeader:
    """The header of the model at `path`, with the tensors of all its files.

    Raises ModelError as `read_gguf_header` does, and when a part is missing, is another model's, or is not the first.
    """
    first = read_gguf_header(path)
    number, count = _place(first)
    if count < 2:
        return first
    name = _NAME.fullmatch(path.name)
    if name is None or int(name[2]) != count:
        raise ModelError(f"{path}: is part {number + 1} of {count}, but not named like NAME-00001-of-{count:05}.gguf")
    names = [f"{name[1]}-{part:05}-of-{name[2]}.gguf" for part in range(1, count + 1)]
    if number != 0:
        raise ModelError(f"{path}: is part {number + 1} of {count}; give the first one, {names[0]}")
    tensors = dict(first.tensors)
    for index, file in enumerate(names[1:], start=1):
        part = read_gguf_header(path.with_name(file))
        if _place(part) != (index, count):
            raise ModelError(f"{part.path}: is not part {index + 1} of {count}, as its name has it; fetch it again")
        twice = next((tensor for tensor in part.tensors if tensor in tensors), None)
        if twice is not None:
            raise ModelError(f"{part.path}: tensor {twice} is in {tensors[twice].path.name} too")
        tensors |= part.tensors
    return GgufHeader(path, first.metadata, tensors)


def _place(header: GgufHeader) -> tuple[int, int]:
    """Which part the file is, from 0, and of how many."""
    fields = Fields(header.metadata, str(header.path))
    return fields.integer("split.no", default=0, minimum=0), fields.integer("split.count", default=1, minimum=0)
