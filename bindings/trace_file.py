"""The file of a trace: whole or not there, and one clear line where it can't be written."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from bindings.errors import CutawayError


@contextmanager
def written_aside(path: str | os.PathLike[str]) -> Iterator[TextIO]:
    """A text file that is written aside and renamed at the end, so that a file of that name is always whole.

    What is no file, such as /dev/stdout, is written as it is, and a link stays one. The disk may fill up: then there is
    no file. Raises CutawayError when it can't be written.
    """
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file():
        with _explained(path), open(path, "w", encoding="utf-8") as straight:
            yield straight
        return
    aside = target.with_name(f".{target.name}.{os.getpid()}.part")
    with _explained(path):
        file = _Explained(aside, path)
    try:
        yield file
    finally:
        try:
            with _explained(path):
                file.close()
                if file.is_whole:
                    aside.replace(target)
        finally:
            aside.unlink(missing_ok=True)


class _Explained(io.TextIOWrapper):
    """A new text file whose errors say that it is the trace that can't be written."""

    def __init__(self, file: Path, path: str | os.PathLike[str]) -> None:
        super().__init__(file.open("wb"), encoding="utf-8")
        self._path, self.is_whole = path, True

    def write(self, text: str, /) -> int:
        """As any text file. Raises CutawayError."""
        try:
            return super().write(text)
        except OSError as error:
            self.is_whole = False
            raise _unwritten(self._path, error) from error


@contextmanager
def _explained(path: str | os.PathLike[str]) -> Iterator[None]:
    """Say of an OSError inside which file it is about."""
    try:
        yield
    except BrokenPipeError:  # a reader that went away is no failure
        raise
    except OSError as error:
        raise _unwritten(path, error) from error


def _unwritten(path: str | os.PathLike[str], error: OSError) -> CutawayError:
    return CutawayError(f"cannot write the trace to {path}: {error.strerror}")
