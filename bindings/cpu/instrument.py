"""Adds to a kernel's text what lets one of its threads be watched: a call after each statement that changes a value.

What is added stands on the line of the statement and names it (`simt::value(__FILE__, 62, "squares", squares);`), so
that line numbers stay. The functions are in simt/simt_inspect.h; they do nothing but for the thread that is inspected.
The text is read by its brackets and by the shape of its statements, not by its types (cpp_declarations.py): what does
not look like a statement that is known here stays as it is. `constexpr` functions stay too (the compiler runs them),
and `operator[]`: it is called again to show an element.
"""

from __future__ import annotations

from bindings.cpu.cpp_declarations import declaration, parameters, skip_attributes
from bindings.cpu.cpp_tokens import Tokens

_ASSIGNMENTS = {"=", "+=", "-=", "*=", "/=", "%=", "&=", "|=", "^=", "<<=", ">>="}
_CASTS = {"static_cast", "reinterpret_cast", "const_cast"}
_PURE = {"sizeof", "min", "max"}  # may be called once more, to show a value
_UNTOUCHED = {
    "break",
    "continue",
    "goto",
    "using",
    "typedef",
    "static_assert",
    "asm",
    "struct",
    "enum",
    "union",
    "class",
    "throw",
    "delete",
}
_LITERALS = {"true", "false", "nullptr"}


def instrumented(source: str) -> str:
    """`source` with the calls added. Raises ValueError where its brackets do not match."""
    return _Instrumenter(Tokens(source)).run()


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


class _Instrumenter:
    """Walks over scopes, functions and statements, and collects what to insert where.

    A method that handles something at `index` returns the index behind it.
    """

    def __init__(self, tokens: Tokens) -> None:
        self.tokens = tokens
        self.insertions: list[tuple[int, str]] = []  # (place in the text, what to insert there), in order of adding

    def run(self) -> str:
        self.scope(0, len(self.tokens), in_struct=False)
        text, parts, last = self.tokens.source, [], 0
        for place, inserted in sorted(self.insertions, key=lambda insertion: insertion[0]):
            parts += [text[last:place], inserted]
            last = place
        return "".join((*parts, text[last:]))

    # ---- What to insert ---------------------------------------------------------------------------------------------

    def before(self, index: int, text: str) -> None:
        self.insertions.append((self.tokens[index].start, text))

    def behind(self, index: int, text: str) -> None:
        self.insertions.append((self.tokens[index].end, text))

    def call(self, function: str, line: int, *arguments: str) -> str:
        return f"simt::{function}({', '.join(('__FILE__', str(line), *arguments))});"

    def shown(self, line: int, first: int, end: int, function: str = "value") -> str:
        """The call that shows the lvalue first .. end - 1 and its subscripts; "" if it can't be evaluated again."""
        if not self.is_pure(first, end):
            return ""
        name, subscripts, last = [], [], first
        for index in self.tokens.outer(first, end):
            if self.tokens.is_(index, "[") and index > first and not self.is_literal(index + 1):
                name += [self.tokens.spelled(last, index + 1), "{}"]
                last = self.tokens.partner[index]
                subscripts.append(self.tokens.spelled(index + 1, last))
        name.append(self.tokens.spelled(last, end))
        lvalue = self.tokens.spelled(first, end)
        return " " + self.call(function, line, _quoted("".join(name)), lvalue, *subscripts)

    def is_literal(self, index: int) -> bool:
        return self.tokens[index].kind == "number" and self.tokens.is_(index + 1, "]")

    def is_pure(self, first: int, end: int) -> bool:
        """Whether evaluating it once more changes nothing: no assignment, no call but of a cast."""
        tokens = self.tokens
        for index in range(first, end):
            text = tokens[index].text
            if text in _ASSIGNMENTS or text in ("++", "--", "{"):
                return False
            if text == "(" and index > first and not self.is_harmless_call(first, index):
                return False
        return True

    def is_harmless_call(self, first: int, opening: int) -> bool:
        """Whether the `(` at `opening` is a mere bracket, or belongs to a cast or a function without effects."""
        before = self.tokens[opening - 1]
        if before.text == ">":
            starts = [i for i in range(first, opening) if self.tokens[i].text in _CASTS]
            return any(self.tokens.template_end(start + 1) == opening - 1 for start in starts)
        return before.kind != "word" or before.text in _PURE

    # ---- Scopes: files, namespaces, structs -------------------------------------------------------------------------

    def scope(self, index: int, end: int, in_struct: bool) -> list[str]:
        """Everything between two braces outside of functions; the data members that are declared there."""
        fields: list[str] = []
        while index < end:
            if self.tokens[index].kind == "directive" or self.tokens.is_(index, ";", ":", "public", "private"):
                index += 1
            elif self.tokens.is_(index, "template") and self.tokens.is_(index + 1, "<"):
                index = (self.tokens.template_end(index + 1) or index) + 1
            elif self.tokens.is_(index, "using", "typedef", "static_assert", "friend", "enum"):
                index = self.to_semicolon(index, end) + 1
            elif self.tokens.is_(index, "struct", "class") and (opening := self.body_of_struct(index)):
                index = self.struct(opening)
            else:
                index = self.declared(index, end, fields)
        return fields

    def to_semicolon(self, index: int, end: int) -> int:
        return next((i for i in self.tokens.outer(index, end) if self.tokens.is_(i, ";")), end)

    def body_of_struct(self, index: int) -> int | None:
        """The `{` of a struct's definition that begins at `index`; None if it is none."""
        index = skip_attributes(self.tokens, index + 1)
        while index < len(self.tokens) and not self.tokens.is_(index, "{", ";", "(", "=", ")"):
            index += 1
        return index if self.tokens.is_(index, "{") else None

    def struct(self, opening: int) -> int:
        """Gives the struct a function that shows its data members to a visitor."""
        closing = self.tokens.partner[opening]
        fields = self.scope(opening + 1, closing, in_struct=True)
        visits = " ".join(f"visitor({_quoted(field)}, {field});" for field in fields)
        shown = f" template <typename Visitor> void simt_fields(Visitor& visitor) const {{ {visits} }} "
        self.before(closing, shown)
        return closing + 1

    def declared(self, index: int, end: int, fields: list[str]) -> int:
        """One declaration: a function, a namespace, or variables."""
        start, list_, has_value = index, None, False
        for index in self.tokens.outer(start, end):
            if self.tokens.is_(index, ";"):
                self.add_fields(start, index, list_ is None, fields)
                return index + 1
            if self.tokens.is_(index, "="):
                has_value = True
            elif self.tokens.is_(index, "(") and not has_value and self.is_parameter_list(index):
                list_ = index
            elif self.tokens.is_(index, "{") and list_ is not None and not has_value:
                return self.function(start, list_, index)
            elif self.tokens.is_(index, "{") and self.tokens.is_(start, "namespace", "extern", "inline"):
                self.scope(index + 1, self.tokens.partner[index], in_struct=False)
                return self.tokens.partner[index] + 1
        return end

    def is_parameter_list(self, opening: int) -> bool:
        before = self.tokens[opening - 1]
        is_call_operator = before.text == ")" and self.tokens.is_(opening - 3, "operator")
        is_operator = self.tokens.is_(opening - 2, "operator") or self.tokens.is_(opening - 3, "operator")
        attribute = skip_attributes(self.tokens, opening - 1) != opening - 1
        return not attribute and (before.kind == "word" or is_call_operator or is_operator)

    def add_fields(self, first: int, end: int, is_variable: bool, fields: list[str]) -> None:
        found = declaration(self.tokens, first, end) if is_variable else None
        if found and not found.qualifiers & {"static", "extern", "constexpr"}:
            fields += [declared.name for declared in found.names]

    # ---- Functions --------------------------------------------------------------------------------------------------

    def function(self, start: int, list_: int, opening: int) -> int:
        words = {self.tokens[index].text for index in range(start, list_)}
        name = self.tokens.spelled(list_ - 1, list_)
        if "operator" in words:
            name = "operator" + self.tokens.spelled(list_ - 2, list_).removeprefix("operator")
        if not words & {"constexpr", "consteval"} and name != "operator[]":
            self.body(name, self.tokens.line(list_), list_, opening)
        return self.tokens.partner[opening] + 1

    def body(self, name: str, line: int, list_: int | None, opening: int) -> None:
        """The body of a function or a lambda; `list_` is the `(` of its parameters."""
        entry = f" const simt::Call simt_call(__FILE__, {line}, {_quoted(name)});"
        for parameter in parameters(self.tokens, list_) if list_ is not None else ():
            if not parameter.is_output:  # nobody has written it yet
                entry += " " + self.call("parameter", line, _quoted(parameter.name), parameter.name)
        self.behind(opening, entry)
        self.block(opening + 1, self.tokens.partner[opening])

    def lambdas(self, first: int, end: int, name: str = "lambda") -> None:
        """Instruments the lambdas in an expression."""
        index = first
        while index < end:
            opening = self.lambda_body(index) if self.tokens.is_(index, "[") else None
            if opening is None:
                index += 1
                continue
            list_ = self.tokens.partner[index] + 1
            has_list = self.tokens.is_(list_, "(")
            self.body(name, self.tokens.line(index), list_ if has_list else None, opening)
            index = self.tokens.partner[opening] + 1

    def lambda_body(self, index: int) -> int | None:
        """The `{` of the lambda that begins with the `[` at `index`; None if that is a subscript or an attribute."""
        before, list_ = self.tokens[index - 1], self.tokens.partner[index] + 1
        is_subscript = (before.kind == "word" and before.text != "return") or before.text in (")", "]", "[", ">")
        if is_subscript or not self.tokens.is_(list_, "(", "{"):
            return None
        if self.tokens.is_(list_, "("):
            list_ = self.tokens.partner[list_] + 1
        return next((i for i in range(list_, len(self.tokens)) if self.tokens.is_(i, "{", ";", ")", ",")), None)

    # ---- Statements -------------------------------------------------------------------------------------------------

    def block(self, index: int, end: int) -> None:
        while index < end:
            index = self.statement(index, end)

    def statement(self, index: int, end: int) -> int:
        tokens = self.tokens
        index = skip_attributes(tokens, index)
        if tokens[index].kind == "directive" or tokens.is_(index, ";"):
            return index + 1
        if tokens.is_(index, "{"):
            self.block(index + 1, tokens.partner[index])
            return tokens.partner[index] + 1
        if tokens.is_(index, "case", "default"):
            return next(i for i in tokens.outer(index, end) if tokens.is_(i, ":")) + 1
        if tokens.is_(index, "if"):
            return self.branch(index, end)
        if tokens.is_(index, "for", "while", "switch"):
            return self.loop(index, end)
        if tokens.is_(index, "do"):
            return self.to_semicolon(self.substatement(index + 1, end), end) + 1
        closing = self.to_semicolon(index, end)
        if tokens[index].text not in _UNTOUCHED and closing < end:
            self.simple(index, closing)
        return closing + 1

    def substatement(self, index: int, end: int, entry: str = "") -> int:
        """What belongs to an if or a loop, in braces; `index` is the first token of it, not the first of the text."""
        opening = index
        while self.tokens[opening].kind == "directive":
            opening += 1
        if self.tokens.is_(opening, "{"):
            self.behind(opening, entry)
            return self.statement(opening, end)
        self.behind(index - 1, " {" + entry)
        after = self.statement(opening, end)
        self.behind(after - 1, " }")
        return after

    def branch(self, index: int, end: int) -> int:
        tokens, line = self.tokens, self.tokens.line(index)
        opening = index + 1 + tokens.is_(index + 1, "constexpr")
        condition = opening + 1, tokens.partner[opening]
        self.before(index, self.call("at", line) + " ")
        self.lambdas(*condition)
        is_expression = not any(tokens.is_(i, ";", "=") for i in tokens.outer(*condition))
        if opening == index + 1 and is_expression:
            text = _quoted(tokens.spelled(*condition))
            self.behind(opening, f"simt::branch(__FILE__, {line}, {text}, ")
            self.before(condition[1], ")")
        after = self.substatement(tokens.partner[opening] + 1, end)
        return self.substatement(after + 1, end) if tokens.is_(after, "else") else after

    def loop(self, index: int, end: int) -> int:
        tokens, line, opening = self.tokens, self.tokens.line(index), index + 1
        closing, before = tokens.partner[opening], index - 1
        while tokens[before].kind == "directive":  # of the loop, such as #pragma unroll
            before -= 1
        self.behind(before, " " + self.call("at", line))
        self.lambdas(opening + 1, closing)
        if tokens.is_(index, "switch"):
            return self.statement(closing + 1, end)
        entry = f" const simt::Iteration simt_iteration(__FILE__, {line});"
        first_part = next((i for i in tokens.outer(opening + 1, closing) if tokens.is_(i, ";", ":")), closing)
        found = declaration(tokens, opening + 1, first_part) if tokens.is_(index, "for") else None
        for declared in found.names if found else ():
            entry += " " + self.call("value", line, _quoted(declared.name), declared.name)
        return self.substatement(closing + 1, end, entry)

    def simple(self, first: int, end: int) -> None:
        """A declaration, an expression or a return, up to its `;` at `end`."""
        tokens, line = self.tokens, self.tokens.line(first)
        if tokens.is_(first, "return"):
            return self.returned(first, end)
        found = declaration(tokens, first, end)
        self.lambdas(first, end, found.names[0].name if found else "lambda")
        self.before(first, self.call("at", line) + " ")
        if found and "__shared__" in found.qualifiers:
            shown = [" " + self.call("shared", line, _quoted(name.name), name.name) for name in found.names]
        elif found:
            shown = [" " + self.call("value", line, _quoted(n.name), n.name) for n in found.names if n.has_value]
        else:
            shown = self.changed(first, end, line)
        self.behind(end, "".join(shown))

    def changed(self, first: int, end: int, line: int) -> list[str]:
        """Calls that show what an expression changes: left of an assignment, beside ++ and --, or a call's output."""
        tokens = self.tokens
        signs = [i for i in tokens.outer(first, end) if tokens[i].text in _ASSIGNMENTS]
        if signs:
            starts = [first, *(sign + 1 for sign in signs[:-1])]
            return [self.shown(line, start, sign) for start, sign in zip(starts, signs, strict=True)]
        if tokens.is_(first, "++", "--"):
            return [self.shown(line, first + 1, end)]
        if tokens.is_(end - 1, "++", "--"):
            return [self.shown(line, first, end - 1)]
        return self.output_of_call(first, end, line)

    def output_of_call(self, first: int, end: int, line: int) -> list[str]:
        """The first argument of `f(x, ...)` or `f(&x, ...)`: what an instruction or memcpy writes."""
        tokens = self.tokens
        if not tokens.is_(end - 1, ")") or tokens[first].kind != "word":
            return []
        opening = next((i for i in tokens.outer(first, end) if tokens.is_(i, "(")), end)
        if opening == end or tokens.partner[opening] != end - 1 or opening + 1 == end - 1:
            return []
        start, stop = next(tokens.split(opening + 1, end - 1))
        function = "output"
        if tokens.is_(start, "&"):
            start, function = start + 1, "value"
        is_lvalue = tokens[start].kind == "word" and not any(
            tokens[i].kind in ("text", "number") or tokens[i].text in "+-*/%" for i in tokens.outer(start, stop)
        )
        return [self.shown(line, start, stop, function)] if is_lvalue else []

    def returned(self, first: int, end: int) -> None:
        tokens, line = self.tokens, self.tokens.line(first)
        self.lambdas(first + 1, end)
        at = self.call("at", line) + " "
        is_literal = end == first + 2 and (tokens[first + 1].kind == "number" or tokens[first + 1].text in _LITERALS)
        if is_literal:  # 0 must stay the literal that converts to a pointer
            at += self.call("result", line, tokens[first + 1].text) + " "
        elif end > first + 1 and not tokens.is_(first + 1, "{"):
            self.behind(first, f" simt::Return(__FILE__, {line}),")
        self.before(first, at)
