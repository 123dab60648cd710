"""What can be wrong with a model or a request. `str(error)` is one line: the thing, the place, the remedy."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from bindings.errors import CutawayError
from bindings.memory import OutOfMemory

# A name out of a damaged file may hold anything, line ends and a terminal's escape sequences too, and be of any length.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_MAX_LENGTH = 1500


class ModelError(CutawayError):
    """A model that can't be used: missing, damaged, or of a kind that the engine does not run."""

    def __init__(self, message: str) -> None:
        line = _UNPRINTABLE.sub(lambda found: repr(found[0])[1:-1], message)
        super().__init__(line if len(line) <= _MAX_LENGTH else f"{line[:_MAX_LENGTH]}...")


class UsageError(CutawayError):
    """A request that can't be met as it was put: an argument out of its range, a prompt that is too long."""


class EngineDeadError(CutawayError):
    """An engine whose device failed in an earlier step: it can run nothing any more."""


class ParamsError(UsageError, ValueError):
    """A sampling parameter out of its range; a ValueError as well, which is what vLLM's callers expect."""


@contextmanager
def out_of_memory_advice(remedy: str) -> Iterator[None]:
    """Lets an OutOfMemory of the block say `remedy`: what of the model or the engine's limits to make smaller."""
    try:
        yield
    except OutOfMemory as error:
        raise error.with_remedy(remedy) from error
