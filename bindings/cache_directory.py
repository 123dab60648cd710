"""Where all that Cutaway keeps between runs lies: compiled kernels, libraries of the CPU device, fetched models."""

import os
from pathlib import Path

from bindings.errors import CutawayError

_ANOTHER_FOLDER = "set CUTAWAY_CACHE to a folder that can be written"
REMEDY = f"make room there, or {_ANOTHER_FOLDER}"


class CacheError(CutawayError):
    """The cache can't be made, read or written: a full or read-only disk, a file in the way, no home folder."""


def cache_error(folder: Path, error: OSError) -> CacheError:
    """`error` as one line that names the folder and the remedy."""
    return CacheError(f"cannot write to {folder}: {error.strerror or error}; {REMEDY}")


def cache_root() -> Path:
    """$CUTAWAY_CACHE, else $XDG_CACHE_HOME/cutaway, else ~/.cache/cutaway; it need not be there.

    Raises CacheError when there is no home folder.
    """
    if os.environ.get("CUTAWAY_CACHE"):
        return _expanded(os.environ["CUTAWAY_CACHE"]).absolute()
    xdg = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if xdg.is_absolute():  # the XDG specification has a relative path ignored
        return xdg / "cutaway"
    return _expanded("~") / ".cache" / "cutaway"


def _expanded(path: str) -> Path:
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise CacheError(f"no home folder to keep a cache in; {_ANOTHER_FOLDER}") from error


def cache_directory(*parts: str) -> Path:
    """The folder `parts` of the cache, made if it is not there. Raises CacheError when it can't be made."""
    folder = cache_root().joinpath(*parts)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CacheError(
            f"the cache folder {error.filename} cannot be made: {error.strerror}; {_ANOTHER_FOLDER}"
        ) from error
    return folder
