"""Where all that Cutaway keeps between runs lies: compiled kernels, libraries of the CPU device, fetched models."""

import os
from pathlib import Path

from bindings.errors import CutawayError


def _root() -> Path:
    if os.environ.get("CUTAWAY_CACHE"):
        return Path(os.environ["CUTAWAY_CACHE"]).expanduser().absolute()
    xdg = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if xdg.is_absolute():  # the XDG specification has a relative path ignored
        return xdg / "cutaway"
    return Path.home() / ".cache" / "cutaway"


def cache_directory(*parts: str) -> Path:
    """The folder `parts` of the cache, made if it is not there.

    The cache is $CUTAWAY_CACHE, else $XDG_CACHE_HOME/cutaway, else ~/.cache/cutaway.

    Raises CutawayError when there is no home folder or the folder can't be made.
    """
    remedy = "set CUTAWAY_CACHE to a folder that can be written"
    try:
        folder = _root().joinpath(*parts)
        folder.mkdir(parents=True, exist_ok=True)
    except RuntimeError as error:  # Path.home() and expanduser() where no home is known
        raise CutawayError(f"no home folder to keep a cache in; {remedy}") from error
    except OSError as error:
        raise CutawayError(f"the cache folder {error.filename} cannot be made: {error.strerror}; {remedy}") from error
    return folder
