"""What the tokenizers package raises, as an error of ours.

It raises bare Exceptions, and where its Rust code panics a PanicException, which is no Exception at all and which no
module exports.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from bindings.errors import CutawayError
from engine.errors import ModelError

MAX_TEXT = 300  # characters: a Rust error may quote the whole value that it did not like


@contextmanager
def tokenizer_errors(what: str) -> Iterator[None]:
    """Turn what the package raises in this block into a ModelError that begins with `what`."""
    try:
        yield
    except CutawayError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise  # Ctrl-C, or the interpreter's end
        text = " ".join(str(error).split()) or type(error).__name__
        raise ModelError(f"{what}: {text if len(text) <= MAX_TEXT else text[:MAX_TEXT] + '...'}") from error
