"""What an inspected thread did, as a tree: functions hold lines, lines hold values, branches, calls and loops."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from tools.microtest.inspection_values import Memory, decoded


@dataclass(frozen=True)
class Value:
    """A variable, or what an assignment went to. `place`: where it lies, if that is a tensor or shared memory."""

    name: str
    value: Any
    place: str | None = None


@dataclass(frozen=True)
class Branch:
    """A condition and what it came to."""

    condition: str
    taken: bool


@dataclass(frozen=True)
class Barrier:
    """The thread waited for others."""

    name: str


@dataclass(frozen=True)
class Exchange:
    """A warp collective: what the thread gave, and what it got."""

    name: str
    given: Any
    got: Any


@dataclass
class Line:
    """A statement that the thread came to, and what happened in it, in order."""

    file: str
    line: int
    parts: list[Value | Branch | Barrier | Exchange | Call | Loop] = field(default_factory=list)


@dataclass
class Turn:
    """One turn of a loop: the loop's variables, and the lines."""

    values: list[Value] = field(default_factory=list)
    body: list[Line] = field(default_factory=list)


@dataclass
class Loop:
    """A loop that the thread went through, turn by turn."""

    file: str
    line: int
    turns: list[Turn] = field(default_factory=list)


@dataclass
class Call:
    """A function of the kernel's text, or a lambda: its arguments, its lines, and what it gave back."""

    name: str
    file: str
    line: int
    parameters: list[Value] = field(default_factory=list)
    body: list[Line] = field(default_factory=list)
    result: Value | None = None


def tree(events: Iterable[list[Any]], memory: Memory) -> list[Call]:
    """The kernel's call that the recorder's events tell of; several if several launches were listened to.

    What did not end, as the launch failed, ends with the last event.
    """
    root = Turn(body=[Line("", 0)])
    builder = _Builder(root, memory)
    for event in events:
        builder.add(event)
    return [part for part in root.body[0].parts if isinstance(part, Call)]


class _Builder:
    def __init__(self, root: Turn, memory: Memory) -> None:
        self.open: list[Call | Turn] = [root]
        self.memory = memory

    def add(self, event: list[Any]) -> None:
        kind, file, line, *rest = event
        getattr(self, f"_add_{kind}")(file, line, *rest)

    def _line(self, file: str, line: int) -> Line:
        """The line that the innermost scope is at."""
        body = self.open[-1].body
        if not body:
            body.append(Line(file, line))
        return body[-1]

    def _add_a(self, file: str, line: int) -> None:
        body = self.open[-1].body
        follows_branch = body and body[-1].parts and isinstance(body[-1].parts[-1], Branch)
        if not (follows_branch and body[-1].line == line):  # if (...) statement; is one line
            body.append(Line(file, line))

    def _value(self, name: str, subscripts: list[Any], address: str, value: Any) -> Value:
        full = name.format(*(decoded(subscript, self.memory) for subscript in subscripts)) if subscripts else name
        return Value(full, decoded(value, self.memory), self.memory.place(address))

    def _add_v(self, file: str, line: int, *spelled: Any) -> None:
        scope, value = self.open[-1], self._value(*spelled)
        if isinstance(scope, Turn) and not scope.body:
            scope.values.append(value)
        else:
            self._line(file, line).parts.append(value)

    def _add_p(self, file: str, line: int, *spelled: Any) -> None:
        scope = self.open[-1]
        assert isinstance(scope, Call)
        parameter = self._value(*spelled)
        if parameter.value != {}:  # a function object
            scope.parameters.append(parameter)

    def _add_t(self, file: str, line: int, *spelled: Any) -> None:
        call = next(scope for scope in reversed(self.open) if isinstance(scope, Call))
        call.result = self._value(*spelled)

    def _add_m(self, file: str, line: int, name: str, address: str) -> None:
        self.memory.add_shared(name, address)

    def _add_b(self, file: str, line: int, condition: str, taken: str) -> None:
        self._line(file, line).parts.append(Branch(condition, decoded(taken, self.memory)))

    def _add_s(self, file: str, line: int, name: str) -> None:
        self._line(file, line).parts.append(Barrier(name))

    def _add_x(self, file: str, line: int, name: str, given: Any, got: Any) -> None:
        exchange = Exchange(name, decoded(given, self.memory), decoded(got, self.memory))
        self._line(file, line).parts.append(exchange)

    def _add_c(self, file: str, line: int, name: str) -> None:
        call = Call(name, file, line)
        self._line(file, line).parts.append(call)
        self.open.append(call)

    def _add_i(self, file: str, line: int, _: str) -> None:
        parts, turn = self._line(file, line).parts, Turn()
        loops = (part for part in reversed(parts) if isinstance(part, Loop) and part.line == line)
        loop = next(loops, None)  # not always the last part: the loop's condition may call functions
        if loop is None:
            loop = Loop(file, line)
            parts.append(loop)
        loop.turns.append(turn)
        self.open.append(turn)

    def _add_e(self, file: str, line: int) -> None:
        self.open.pop()


def values(parts: Iterable[Any]) -> Iterator[Value]:
    """Every value in a tree, in the order in which it came to be."""
    for part in parts:
        if isinstance(part, Value):
            yield part
        elif isinstance(part, Line):
            yield from values(part.parts)
        elif isinstance(part, Loop):
            yield from values(part.turns)
        elif isinstance(part, Turn):
            yield from (*part.values, *values(part.body))
        elif isinstance(part, Call):
            yield from (*part.parameters, *values(part.body), *([part.result] if part.result else []))
