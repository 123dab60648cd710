"""What can be wrong with a model or a request. `str(error)` is one line: the thing, the place, the remedy."""

from bindings.errors import CutawayError


class ModelError(CutawayError):
    """A model that can't be used: missing, damaged, or of a kind that the engine does not run."""


class UsageError(CutawayError):
    """A request that can't be met as it was put: an argument out of its range, a prompt that is too long."""
