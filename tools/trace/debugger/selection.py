"""What a person types to name values in device memory: `q[0, 0, :8]`, `kv_pages+0x400:bf16[64]`, `logits[..., -1]`.

A name, as a parameter of the kernel or as a buffer is called; behind a colon how to read it, where that is not known,
as tensors are shown everywhere; then an index as NumPy takes it: numbers, slices and one `...`.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from types import EllipsisType

from bindings import dtypes
from bindings.dtypes import DType
from tools.trace.debugger.errors import CommandError

Axis = int | slice | EllipsisType
Index = tuple[Axis, ...]

DTYPES = {dtype.name: dtype for dtype in vars(dtypes).values() if isinstance(dtype, DType)}

_FORM = re.compile(
    r"(?P<name>[A-Za-z_][\w.]*)(\+(?P<offset>0x[0-9a-fA-F]+|\d+))?"
    r"(:(?P<dtype>\w+)\[(?P<shape>[\d\s,]*)\])?"
    r"\s*(\[(?P<index>[^\[\]]*)\])?"
)


@dataclass(frozen=True)
class Selection:
    """A name, the byte offset behind it, dtype and shape where they were given, and an index (() for all)."""

    name: str
    offset: int
    dtype: DType | None
    shape: tuple[int, ...] | None
    index: Index


def parse_selection(text: str) -> Selection:
    """`text` taken apart. Raises CommandError when it is none, or names a dtype that is none."""
    found = _FORM.fullmatch(text.strip())
    if found is None:
        raise CommandError(f"cannot read {text.strip()!r}; write it as in: qkv[0, :8], or kv_pages+0x400:bf16[64]")
    dtype, shape = found["dtype"], found["shape"]
    if dtype is not None and dtype not in DTYPES:
        raise CommandError(f"no element type is called {dtype!r}; there are {', '.join(DTYPES)}")
    sizes = None if shape is None else tuple(int(size) for size in shape.split(",") if size.strip())
    if sizes is not None and 0 in sizes:
        raise CommandError(f"{text.strip()!r} has no elements: the sizes of a shape begin with 1")
    offset = int(found["offset"] or "0", 0)
    return Selection(found["name"], offset, DTYPES[dtype] if dtype else None, sizes, parse_index(found["index"] or ""))


def parse_index(text: str) -> Index:
    """`0, 2:8, ...` as what goes into the brackets of an array. Raises CommandError for anything but that."""
    if not text.strip():
        return ()
    try:
        tree = ast.parse(f"_[{text}]", mode="eval").body
    except SyntaxError:
        tree = None
    if not isinstance(tree, ast.Subscript):
        raise CommandError(f"cannot read the index [{text}]; it takes numbers, slices and ..., as in [0, 2:8, ...]")
    items = tree.slice.elts if isinstance(tree.slice, ast.Tuple) else [tree.slice]
    return tuple(_item(item, text) for item in items)


def _item(node: ast.expr, text: str) -> Axis:
    if isinstance(node, ast.Constant) and node.value is ...:
        return ...
    if isinstance(node, ast.Slice):
        return slice(*(None if part is None else _number(part, text) for part in (node.lower, node.upper, node.step)))
    return _number(node, text)


def _number(node: ast.expr, text: str) -> int:
    negative = isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub)
    value = node.operand if isinstance(node, ast.UnaryOp) and negative else node
    if not isinstance(value, ast.Constant) or type(value.value) is not int:
        raise CommandError(f"cannot read the index [{text}]; it takes numbers, slices and ..., as in [0, 2:8, ...]")
    return -value.value if negative else value.value
