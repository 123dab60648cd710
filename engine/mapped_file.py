"""A file as read-only memory: what is never looked at is never read from the disk."""

from __future__ import annotations

import mmap
import stat
from pathlib import Path

from engine.errors import ModelError

DAMAGED = "the file is damaged or cut short, fetch it again"


def map_file(path: Path) -> mmap.mmap:
    """The whole file, read-only. Raises ModelError when it can't be opened, is empty, or is no regular file."""
    try:
        # Before it is opened: a pipe would wait for somebody to write into it.
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise ModelError(f"{path}: is a folder; expected a file")
        if not stat.S_ISREG(status.st_mode):
            raise ModelError(f"{path}: is no regular file")
        if status.st_size == 0:
            raise ModelError(f"{path}: is empty; {DAMAGED}")
        with path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:  # a NUL in its name; or the file was emptied since
        raise ModelError(f"{str(path)!r}: cannot be read: {error}") from error
