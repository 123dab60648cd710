"""How slow work says how far it is: a callable, so that the engine knows nothing of terminals."""

from collections.abc import Callable

# (stage, done, total, unit), unit one of "bytes", "kernels", "tensors": called before the first piece and after each.
Progress = Callable[[str, int, int, str], None]


def silent(stage: str, done: int, total: int, unit: str) -> None:
    """Progress that nobody watches."""
