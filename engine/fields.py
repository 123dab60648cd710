"""Values from a file that someone else wrote: each is checked as it is taken, and named when it is wrong."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine.errors import ModelError


class Fields:
    """Named values of one file. A null counts as absent; a getter without a default demands the field.

    `source` is what an error names first, usually the file's path; `prefix` stands before each field's name.
    Every getter raises ModelError naming the file, the field, its value and what was expected.
    """

    def __init__(self, values: Mapping[str, Any], source: str, prefix: str = "") -> None:
        self.values, self.source, self.prefix = values, source, prefix

    def error(self, name: str, what: str) -> ModelError:
        """A ModelError about the field `name`; `what` is the rest of the sentence."""
        return ModelError(f"{self.source}: {self.prefix}{name} {what}")

    def has(self, name: str) -> bool:
        """Whether the field is there and not null."""
        return self.values.get(name) is not None

    def _take(self, name: str, kind: type | tuple[type, ...], expected: str, default: Any) -> Any:
        value = self.values.get(name)
        if value is None:
            if default is None:
                raise self.error(name, f"is missing; expected {expected}")
            return default
        # bool is a subclass of int, yet `true` is no number of layers.
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise self.error(name, f"is {shown(value)}; expected {expected}")
        return value

    def integer(self, name: str, default: int | None = None, minimum: int = 1) -> int:
        """A whole number, at least `minimum`."""
        expected = f"a whole number >= {minimum}"
        value: int = self._take(name, int, expected, default)
        if value < minimum:
            raise self.error(name, f"is {value}; expected {expected}")
        return value

    def number(self, name: str, default: float | None = None) -> float:
        """A finite number above zero."""
        expected = "a number > 0"
        value: float = self._take(name, (int, float), expected, default)
        # Not isfinite: it fails on a whole number beyond the range of a float.
        if not 0 < value <= sys.float_info.max:
            raise self.error(name, f"is {value}; expected {expected}")
        return float(value)

    def flag(self, name: str) -> bool:
        """A boolean; absent means false."""
        value: bool = self._take(name, bool, "true or false", False)
        return value

    def text(self, name: str, default: str | None = None) -> str:
        """A string."""
        value: str = self._take(name, str, "a string", default)
        return value

    def ids(self, name: str) -> tuple[int, ...]:
        """Token ids: one number, a list of them, or absent (no ids)."""
        value = self.values.get(name)
        items = value if isinstance(value, list) else [] if value is None else [value]
        if any(not isinstance(item, int) or isinstance(item, bool) or item < 0 for item in items):
            raise self.error(name, f"is {shown(value)}; expected a token id or a list of token ids")
        return tuple(items)

    def section(self, name: str) -> Fields:
        """A nested object; absent means empty."""
        values = self._take(name, dict, "an object", {})
        return Fields(values, self.source, f"{self.prefix}{name}.")


def shown(value: object) -> str:
    """`value` as JSON spells it, cut to fit a line."""
    text = json.dumps(value, default=repr)
    return text if len(text) <= 60 else f"{text[:57]}..."


def read_text(path: Path) -> str:
    """The UTF-8 text file `path`. Raises ModelError when it can't be read or is no text."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ModelError(f"{path}: is not UTF-8 text ({error}); fetch the file again") from error


def read_json(path: Path) -> dict[str, Any]:
    """The object in the JSON file `path`. Raises ModelError when it can't be read or holds something else."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, or brackets nested without end
        raise ModelError(f"{path}: is not valid JSON ({error}); fetch the file again") from error
    if not isinstance(values, dict):
        raise ModelError(f"{path}: holds {shown(values)}; expected a JSON object")
    return values
