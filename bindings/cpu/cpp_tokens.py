"""A C++ text as tokens with their places: enough to find statements, not enough to understand types."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass

_TOKEN = re.compile(
    r"""
    (?P<space>\s+|//[^\n]*|/\*.*?\*/)
  | (?P<directive>\#(?:\\\n|[^\n])*)
  | (?P<text>"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*')
  | (?P<number>\.?\d(?:[eEpP][+-]|[\w.'])*)
  | (?P<word>[A-Za-z_]\w*)
  | (?P<mark><<=|>>=|\.\.\.|->|\+\+|--|::|<<|[-+*/%&|^<>=!]=|&&|\|\||.)
    """,
    re.VERBOSE | re.DOTALL,
)
_LINE = re.compile(r"\s*#\s*line\s+(\d+)")
_CLOSING = {"(": ")", "[": "]", "{": "}"}


@dataclass(frozen=True)
class Token:
    """`kind` is directive (a whole line that begins with #), text, number, word or mark."""

    kind: str
    text: str
    start: int
    end: int


class Tokens:
    """The tokens of `source`; `partner[i]` is the index of the bracket that closes the one at i.

    Raises ValueError where brackets do not match.
    """

    def __init__(self, source: str) -> None:
        self.source = source
        self.tokens = list(_split(source))
        self.partner = _partners(self.tokens)
        self._newlines = [match.start() for match in re.finditer("\n", source)]
        directives = [token for token in self.tokens if token.kind == "directive" and _LINE.match(token.text)]
        self._directive_starts = [token.start for token in directives]
        self._directive_lines = [int(_LINE.match(token.text)[1]) for token in directives]  # type: ignore[index]

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: int) -> Token:
        return self.tokens[index]

    def is_(self, index: int, *texts: str) -> bool:
        """Whether there is a token at `index` and its text is one of `texts`."""
        return 0 <= index < len(self.tokens) and self.tokens[index].text in texts

    def line(self, index: int) -> int:
        """The line of a token, as the #line directive before it counts."""
        physical = bisect_right(self._newlines, self.tokens[index].start - 1)
        before = bisect_right(self._directive_starts, self.tokens[index].start) - 1
        if before < 0:
            return physical + 1
        at = bisect_right(self._newlines, self._directive_starts[before] - 1)
        return self._directive_lines[before] + physical - at - 1

    def spelled(self, first: int, end: int) -> str:
        """The text of the tokens first .. end - 1 in one line, comments left out."""
        parts: list[str] = []
        for index in range(first, end):
            token = self.tokens[index]
            if index > first and token.start > self.tokens[index - 1].end:
                parts.append(" ")
            parts.append(token.text)
        return "".join(parts)

    def outer(self, first: int, end: int) -> Iterator[int]:
        """The indices first .. end - 1 outside of brackets, the brackets themselves included."""
        index = first
        while index < end:
            yield index
            index = self.partner.get(index, index)
            if index < end and self.tokens[index].text in _CLOSING.values():
                yield index
            index += 1

    def split(self, first: int, end: int, separator: str = ",") -> Iterator[tuple[int, int]]:
        """The parts between separators that are in no brackets, template arguments counted as brackets."""
        start, angles = first, 0
        for index in self.outer(first, end):
            text = self.tokens[index].text
            angles = max(angles + {"<": 1, ">": -1}.get(text, 0), 0)
            if text == separator and not angles:
                yield start, index
                start = index + 1
        if start < end:
            yield start, end

    def template_end(self, opening: int) -> int | None:
        """The index of the `>` that closes the `<` at `opening`; None if it opens no template arguments."""
        depth, index = 0, opening
        while index < len(self.tokens):
            text = self.tokens[index].text
            if index in self.partner:
                index = self.partner[index]
            elif text in (";", ")", "]", "}"):
                return None
            depth += {"<": 1, ">": -1}.get(text, 0)
            if depth == 0:
                return index
            index += 1
        return None


def _split(source: str) -> Iterator[Token]:
    for match in _TOKEN.finditer(source):
        kind = match.lastgroup or ""
        if kind != "space":
            yield Token(kind, match.group(), match.start(), match.end())


def _partners(tokens: list[Token]) -> dict[int, int]:
    partner, open_ = {}, []
    for index, token in enumerate(tokens):
        if token.kind != "mark":
            continue
        if token.text in _CLOSING:
            open_.append(index)
        elif token.text in _CLOSING.values():
            if not open_ or _CLOSING[tokens[open_[-1]].text] != token.text:
                raise ValueError(f"unmatched {token.text!r}")
            partner[open_.pop()] = index
    if open_:
        raise ValueError(f"unmatched {tokens[open_[-1]].text!r}")
    return partner
