"""The HTML page of a trace: one file that works from disk and asks the network for nothing.

`write_page(recording, path)`: the recording packed into columns (columns.py), the texts of the kernels that it launched
(sources.py) and the page's own template, style and scripts, put together into one document (document.py).
"""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path

from bindings.errors import CutawayError
from tools.trace.page.columns import pack
from tools.trace.page.document import document
from tools.trace.page.sources import sources_of
from tools.trace.recording import Recording


def write_page(recording: Recording, path: str | os.PathLike[str]) -> None:
    """Write the page of `recording` to `path`, whole or not at all. Raises CutawayError where that can't be done."""
    packed = pack(recording.header, recording.records)
    text = document(packed | {"sources": sources_of(recording.records)}, str(recording.header.get("command", "")))
    try:
        _replace(Path(path), text)
    except OSError as error:
        raise CutawayError(f"cannot write the page to {path}: {error.strerror}") from error


def _replace(path: Path, text: str) -> None:
    """Written aside and renamed, so that a file of that name is always whole."""
    if path.is_dir():  # before the work of writing: renaming onto it would fail
        raise IsADirectoryError(21, "it is a folder")
    descriptor, aside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(aside, 0o644)  # mkstemp makes files that nobody else may read
        os.replace(aside, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(aside)
        raise
