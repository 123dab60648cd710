"""What may stand behind `if` in a breakpoint: `layer == 3 and m > 1`, `grid[0] >= 64`, `qkv.shape[0] > 1`.

Python's own grammar, cut down to numbers, texts, comparisons, arithmetic, indexing and the `shape` of an operand: an
expression is walked, never given to `eval`. A name stands for a field of the call's event, for one of the kernel's
parameters, or for an operand. A call that lacks a name that an expression has does not meet it.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from bindings.trace import Event
from engine import ops
from tools.trace.debugger.errors import CommandError
from tools.trace.debugger.labels import number_of

FIELDS = frozenset({
    "number", "call", "label", "site", "step", "layer", "stream", "captured", "graph", "bytes", "flops",
    "kernel", "source", "op", "grid", "block", "smem", "registers", "m", "n", "k", "transpose_b", "buffer", "nbytes",
})  # fmt: skip

_BINARY: Mapping[type[ast.AST], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod, ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Lt: operator.lt, ast.LtE: operator.le,
    ast.Gt: operator.gt, ast.GtE: operator.ge, ast.In: lambda a, b: a in b, ast.NotIn: lambda a, b: a not in b,
}  # fmt: skip
_UNARY: Mapping[type[ast.AST], Callable[[Any], Any]] = {ast.Not: operator.not_, ast.USub: operator.neg}
# Nodes that mean something to the node above them only.
_INNER: tuple[type[ast.AST], ...] = (ast.Load, ast.And, ast.Or, *_BINARY, *_UNARY)


class Missing(Exception):
    """A name that this call has no value for."""


@cache
def known_names() -> frozenset[str]:
    """Every name that some call has a value for."""
    arguments = {name for op in ops.ALL.values() for name, _ in op.parameters}
    return FIELDS | arguments | {"out", "a", "b"}


class Condition:
    """An expression over the fields of a call. Raises CommandError when it is none."""

    def __init__(self, text: str) -> None:
        self.text = text
        try:
            self._tree = ast.parse(text.strip(), mode="eval").body
        except SyntaxError:
            raise CommandError(f"cannot read the condition {text!r}; write it as in: layer == 3 and m > 1") from None
        for node in ast.walk(self._tree):
            self._check(node)

    def _check(self, node: ast.AST) -> None:
        if isinstance(node, ast.Name) and node.id not in known_names():
            raise CommandError(f"the condition {self.text!r} names {node.id!r}, which no call has")
        if isinstance(node, ast.Attribute) and node.attr != "shape":
            raise CommandError(f"the condition {self.text!r} asks for .{node.attr}; an operand has .shape")
        if not isinstance(node, (*_INNER, *_EVALUATORS)):
            raise CommandError(f"the condition {self.text!r} may compare and calculate, and no more than that")

    def holds(self, event: Event) -> bool:
        """Whether this call meets the condition; one that it makes no sense for does not."""
        try:
            return bool(_evaluate(self._tree, event))
        except (Missing, ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
            return False


def value_of(name: str, event: Event) -> Any:
    """The value of a name for this call: of an operand its text, which `shape` is read off. Raises Missing."""
    value: Any
    if name in ("step", "layer"):
        value = number_of(event, name)
    elif name == "number":
        value = event["n"]
    else:
        known = {**event, **event.get("sizes", {}), **event.get("tensors", {})}
        value = known[name] if name in known else _number(event.get("params", {}).get(name))
    if value is None:
        raise Missing
    return tuple(value) if isinstance(value, list) else value


def _number(spelled: str | None) -> int | float | str | None:
    """A kernel's parameter as the number that it spells, where it does."""
    for kind in (int, float):
        try:
            return None if spelled is None else kind(spelled)
        except ValueError:
            pass
    return spelled


def shape_of(spelled: str) -> tuple[int, ...]:
    """(5, 64) of `activations.normed:bf16[5, 64]`."""
    sizes = spelled.rpartition("[")[2].rstrip("]")
    return tuple(int(size) for size in sizes.split(",") if size.strip())


def _evaluate(node: ast.AST, event: Event) -> Any:
    return _EVALUATORS[type(node)](node, event)


def _compare(node: ast.Compare, event: Event) -> bool:
    left = _evaluate(node.left, event)
    for comparison, term in zip(node.ops, node.comparators, strict=True):
        right = _evaluate(term, event)
        if not _BINARY[type(comparison)](left, right):
            return False
        left = right
    return True


def _logic(node: ast.BoolOp, event: Event) -> bool:
    holds = all if isinstance(node.op, ast.And) else any
    return holds(_evaluate(value, event) for value in node.values)


def _sequence(node: ast.List | ast.Tuple, event: Event) -> tuple[Any, ...]:
    """Of either kind of brackets, so that both compare equal to a grid or a shape."""
    return tuple(_evaluate(item, event) for item in node.elts)


def _shape(node: ast.Attribute, event: Event) -> tuple[int, ...]:
    return shape_of(_evaluate(node.value, event))


_EVALUATORS: Mapping[type[ast.AST], Callable[[Any, Event], Any]] = {
    ast.Constant: lambda node, event: node.value,
    ast.Name: lambda node, event: value_of(node.id, event),
    ast.Attribute: _shape,
    ast.Subscript: lambda node, event: _evaluate(node.value, event)[_evaluate(node.slice, event)],
    ast.Compare: _compare,
    ast.BoolOp: _logic,
    ast.BinOp: lambda node, event: _BINARY[type(node.op)](_evaluate(node.left, event), _evaluate(node.right, event)),
    ast.UnaryOp: lambda node, event: _UNARY[type(node.op)](_evaluate(node.operand, event)),
    ast.List: _sequence,
    ast.Tuple: _sequence,
}
