"""Where chat templates run: Jinja's sandbox, with a budget of steps and one of characters.

Jinja keeps a template from reaching Python's insides, but not from taking all time and memory: two nested loops over
`range`, `'x' * 10 ** 12`, a list that holds itself twice, forty times over. So every loop item and every call costs a
step, and every value that an expression makes or looks through costs its size. Where a result can be much larger than
what it is made of, its size is checked before it is made.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from functools import wraps
from typing import Any

from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.runtime import Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

# A thousand messages need some ten thousand steps. The most expensive ones, macro calls, take 8 microseconds each.
MAX_STEPS = 250_000
# Characters made or looked through. A template that appends a thousand messages of 200 characters one
# by one to a text, copying it each time, needs 10^8.
MAX_SIZE = 1 << 27
ENTRY = 128  # characters that an entry of a list costs: it is looked at by itself, which takes half a microsecond
MAX_NUMBER = 1 << 16  # as an argument: widths, indentations, repetitions
MAX_BITS = 4096  # of a whole number

# Filters and methods whose result may be as large as the product of what they are given.
_MULTIPLYING = {"center", "expandtabs", "format", "format_map", "indent", "join", "ljust", "replace", "rjust"}
_MULTIPLYING |= {"batch", "slice", "to_bytes", "tojson", "translate", "urlize", "wordwrap", "xmlattr", "zfill"}
# A width in a format: of five digits, or taken from the arguments, as '%*d' and '{:{}}' do.
_WIDE = re.compile(r"\d{5}|%[-+ #0]*\*|\{[\w.\[\]!]*:[^{}\s\"]*\{")


class GenerationTag(Extension):
    """`{% generation %}…{% endgeneration %}` marks the assistant's words in training; kept is its content."""

    tags = {"generation"}  # noqa: RUF012 (Jinja's own declaration)

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


class TemplateSandbox(ImmutableSandboxedEnvironment):
    """A Jinja environment on a budget; `refill` it before each rendering.

    What exceeds the budget raises jinja2's SecurityError.
    """

    intercepted_binops = frozenset({"+", "*", "%", "**"})

    def __init__(self) -> None:
        # Not optimized: constants would be computed when the template is parsed.
        extensions = ["jinja2.ext.loopcontrols", GenerationTag]
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=extensions, optimized=False)
        self.refill()
        del self.globals["lipsum"]
        self.globals["range"] = self.counted_range

    def use_filters(self, **filters: Callable[..., Any]) -> None:
        """Put `filters` beside Jinja's own, and every one of them on the budget."""
        self.filters.update(filters)
        self.filters = {name: self._on_budget(name, function) for name, function in self.filters.items()}
        self.filters.update(counted=self.counted, measured=self.measured, concatenated=self.concatenated)

    def refill(self) -> None:
        """A whole budget, for another rendering."""
        self.steps_left, self.size_left = MAX_STEPS, MAX_SIZE

    def parsed(self, source: str) -> nodes.Template:
        """`source` as a tree in which loops count, and what makes values measures them."""
        template: nodes.Template = _Budgeting().visit(self.parse(source))
        return template

    def spend(self, steps: int) -> None:
        self.steps_left -= steps
        if self.steps_left < 0:
            raise SecurityError(f"it takes more than {MAX_STEPS} steps; does it end?")

    def spend_size(self, size: int) -> None:
        self.size_left -= size
        if self.size_left < 0:
            raise SecurityError(f"it makes more than {MAX_SIZE} characters; does it end?")

    def size(self, value: Any) -> int:
        """Characters in `value`, and ENTRY for each entry; what it has twice counts twice."""
        if isinstance(value, str):
            return len(value)
        total, rest = 0, [value]
        while rest:
            item = rest.pop()
            if isinstance(item, str | bytes):
                total += len(item)
            elif isinstance(item, dict):
                rest += [*item, *item.values()]
            elif isinstance(item, list | tuple | set | frozenset):
                rest += item
            elif isinstance(item, int) and item.bit_length() > MAX_BITS:
                raise SecurityError(f"it makes a number of more than {MAX_BITS} bits")
            total += ENTRY
            if total + ENTRY * len(rest) > self.size_left:
                raise SecurityError(f"it makes more than {MAX_SIZE} characters; does it end?")
        return total

    def measured(self, value: Any) -> Any:
        """`value`, for its size."""
        self.spend_size(self.size(value))
        return value

    def concatenated(self, *values: Any) -> str:
        """What `a ~ b` makes."""
        return self.concat([str(self.measured(value)) for value in values])

    def concat(self, pieces: Iterable[str]) -> str:  # Jinja's name, for what macros and blocks write
        pieces = list(pieces)
        self.spend_size(sum(len(piece) for piece in pieces))
        return "".join(pieces)

    def counted(self, items: Iterable[Any]) -> Iterator[Any]:
        for item in items:
            self.spend(1)
            yield item

    def counted_range(self, *bounds: int) -> range:
        numbers = range(*bounds)
        self.spend(len(numbers))
        return numbers

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "**" and isinstance(left, int) and isinstance(right, int):
            self._expect_bits(left.bit_length() * right)
        if operator == "*":
            for value, count in ((left, right), (right, left)):
                if isinstance(value, str | bytes | list | tuple) and isinstance(count, int):
                    self._expect_size(self.size(value) * count)
        if operator == "%" and isinstance(left, str | bytes):
            self._check_product("format", left, [right])
        return self.measured(super().call_binop(context, operator, left, right))

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        __self.spend(1)
        # Of a method: str.format comes in a wrapper of the sandbox's.
        owner, given = getattr(getattr(__obj, "__wrapped__", __obj), "__self__", None), [*args, *kwargs.values()]
        if isinstance(owner, str | bytes | list | tuple | dict | int):
            __self._charge_inputs(__obj.__name__, owner, given)
        return __self.measured(super().call(__context, __obj, *args, **kwargs))

    def unsafe_undefined(self, obj: Any, attribute: str) -> Undefined:
        # Jinja would render an unsafe attribute as the empty string and only fail at the next step outwards.
        raise SecurityError(f"it reaches for the attribute {attribute!r} of a {type(obj).__name__}")

    def _on_budget(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        context = int(hasattr(function, "jinja_pass_arg"))  # such a filter is given a context before its value

        @wraps(function)
        def on_budget(*args: Any, **kwargs: Any) -> Any:
            self.spend(1)
            value, *given = args[context:]
            if name == "join":
                value = list(value)  # it may be a generator, which can be looked through once
                args = (*args[:context], value, *given)
            self._charge_inputs(name, value, [*given, *kwargs.values()])
            return self.measured(function(*args, **kwargs))

        return on_budget

    def _charge_inputs(self, name: str, value: Any, given: list[Any]) -> None:
        for item in (value, *given):
            self.spend_size(len(item) if isinstance(item, str | bytes | list | tuple | dict) else 1)
        if name in _MULTIPLYING:
            self._check_product(name, value, given)

    def _check_product(self, name: str, value: Any, given: list[Any]) -> None:
        for number in given:
            if isinstance(number, int) and abs(number) > MAX_NUMBER:
                raise SecurityError(f"it calls {name} with {number:.6g}, more than {MAX_NUMBER}")
        text = value.decode("latin-1") if isinstance(value, bytes) else value
        if name.startswith("format") and isinstance(text, str) and _WIDE.search(text):
            raise SecurityError("it formats with a width of its own making or of more than four digits")
        factors = [abs(item) if isinstance(item, int) else self.size(item) for item in given]
        self._expect_size((self.size(value) + 1) * (max(factors, default=0) + 1))

    def _expect_size(self, size: int) -> None:
        if size > self.size_left:
            raise SecurityError(f"it makes more than {MAX_SIZE} characters; does it end?")

    def _expect_bits(self, bits: int) -> None:
        if bits > MAX_BITS:
            raise SecurityError(f"it makes a number of more than {MAX_BITS} bits")


class _Budgeting(NodeTransformer):
    """Sends what each `for` iterates over through `counted`, and new or compared values through `measured`."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        self.generic_visit(node)
        node.iter = _filtered("counted", node.iter)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _filtered("concatenated", *node.nodes)

    def visit_List(self, node: nodes.List | nodes.Dict) -> nodes.Node:
        self.generic_visit(node)
        return _filtered("measured", node)

    visit_Dict = visit_List

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:
        self.generic_visit(node)
        return _filtered("measured", node) if node.ctx == "load" else node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        self.generic_visit(node)
        return _filtered("measured", node) if isinstance(node.arg, nodes.Slice) else node

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:
        self.generic_visit(node)
        node.expr = _filtered("measured", node.expr)
        for operand in node.ops:
            operand.expr = _filtered("measured", operand.expr)
        return node


def _filtered(name: str, *operands: nodes.Node) -> nodes.Filter:
    """The expression `operands[0] | name(operands[1], ...)`."""
    first, *others = operands
    return nodes.Filter(first, name, others, [], None, None, lineno=first.lineno)
