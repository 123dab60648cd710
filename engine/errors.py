"""What can be wrong with a model or a request. `str(error)` is one line: the thing, the place, the remedy."""

from collections.abc import Iterator
from contextlib import contextmanager

from bindings.errors import CutawayError
from bindings.memory import OutOfMemory


class ModelError(CutawayError):
    """A model that can't be used: missing, damaged, or of a kind that the engine does not run."""


class UsageError(CutawayError):
    """A request that can't be met as it was put: an argument out of its range, a prompt that is too long."""


@contextmanager
def out_of_memory_advice(remedy: str) -> Iterator[None]:
    """Lets an OutOfMemory of the block say `remedy`: what of the model or the engine's limits to make smaller."""
    try:
        yield
    except OutOfMemory as error:
        raise error.with_remedy(remedy) from error
