"""A model's chat template: messages -> the text that the model was trained to continue.

A template is a Jinja program that comes with the model, so it is somebody else's code. It runs in Jinja's
sandbox (no attributes that begin with an underscore, no changes to what it is given) and on a budget of
steps, since two nested loops over `range` would otherwise keep a core busy for hours.

Conventions are those of Hugging Face transformers (https://huggingface.co/docs/transformers/chat_templating):
`trim_blocks` and `lstrip_blocks`; `break` and `continue`; the names `messages`, `tools`, `add_generation_prompt`,
`bos_token`, `eos_token`; the functions `raise_exception` and `strftime_now`; a `tojson` that does not escape
HTML; the tag `generation`.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.runtime import Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment

from engine.errors import ModelError, UsageError

# A thousand messages need some ten thousand steps. The most expensive ones, macro calls, take 8 microseconds each.
MAX_STEPS = 250_000
MAX_CHARACTERS = 1 << 26


class TemplateRefusal(jinja2.TemplateError):
    """The template called `raise_exception`: these messages are not what it can format."""


class ChatTemplate:
    """A compiled template with the special tokens that it may write.

    Args:
        source: the Jinja text.
        special_tokens: values of `bos_token`, `eos_token` and the like; absent ones are undefined in the
            template.
        name: what error messages call the template's origin (a path).

    Raises:
        ModelError: the source is not valid Jinja.
    """

    def __init__(self, source: str, special_tokens: Mapping[str, str], name: str) -> None:
        self.name, self.special_tokens = name, dict(special_tokens)
        self._environment = _Environment()
        self._lock = threading.Lock()  # the environment counts the steps of one rendering at a time
        try:
            self._template = self._environment.from_string(self._environment.with_counted_loops(source))
        except (jinja2.TemplateError, RecursionError) as error:
            raise ModelError(f"{name}: the chat template does not parse: {_one_line(error)}") from error

    def render(self, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool = True) -> str:
        """Format `messages`, each a mapping with at least the strings "role" and "content".

        With `add_generation_prompt` the text ends where the assistant's answer begins.

        Raises:
            UsageError: a message lacks its role or content, or the template refuses the conversation.
            ModelError: the template itself is at fault: it fails, reaches out of the sandbox, or does not
                end.
        """
        _check_messages(messages)
        variables = {
            **self.special_tokens,
            "tools": None,
            "documents": None,
            "messages": [dict(message) for message in messages],
            "add_generation_prompt": add_generation_prompt,
        }
        with self._lock:
            self._environment.steps_left = MAX_STEPS
            try:
                return _join(self._template.generate(variables))
            except TemplateRefusal as error:
                raise UsageError(
                    f"{self.name}: the chat template refuses these messages: {_one_line(error)}"
                ) from error
            except Exception as error:  # a template can fail in every way in which Python can
                raise ModelError(f"{self.name}: the chat template failed: {_one_line(error)}") from error


class _GenerationTag(Extension):
    """`{% generation %}…{% endgeneration %}` marks the assistant's words in training; kept is its content."""

    tags = {"generation"}  # noqa: RUF012 (Jinja's own declaration)

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


class _Environment(ImmutableSandboxedEnvironment):
    """Jinja's sandbox with a budget: every loop item and every call is one step."""

    def __init__(self) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _GenerationTag])
        self.steps_left = MAX_STEPS
        self.filters["tojson"] = _tojson
        self.filters["counted"] = self.counted
        self.globals.update(raise_exception=_refuse, strftime_now=_strftime_now, range=self.counted_range)

    def with_counted_loops(self, source: str) -> nodes.Template:
        """Parse `source` and send what each `for` iterates over through `counted`."""
        template = self.parse(source)
        for loop in template.find_all(nodes.For):
            loop.iter = nodes.Filter(loop.iter, "counted", [], [], None, None, lineno=loop.lineno)
        return template

    def spend(self, steps: int) -> None:
        self.steps_left -= steps
        if self.steps_left < 0:
            raise SecurityError(f"it takes more than {MAX_STEPS} steps; does it end?")

    def counted(self, items: Iterable[Any]) -> Iterator[Any]:
        for item in items:
            self.spend(1)
            yield item

    def counted_range(self, *bounds: int) -> range:
        numbers = range(*bounds)
        self.spend(len(numbers))
        return numbers

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        __self.spend(1)
        return super().call(__context, __obj, *args, **kwargs)

    def unsafe_undefined(self, obj: Any, attribute: str) -> Undefined:
        # Jinja would render an unsafe attribute as the empty string and only fail at the next step outwards.
        raise SecurityError(f"it reaches for the attribute {attribute!r} of a {type(obj).__name__}")


def _check_messages(messages: Sequence[Mapping[str, Any]]) -> None:
    if not messages:
        raise UsageError("a conversation needs at least one message")
    for index, message in enumerate(messages):
        if not isinstance(message, Mapping):
            raise UsageError(
                f"message {index} is a {type(message).__name__}, expected a dict with 'role' and 'content'"
            )
        for key in ("role", "content"):
            if not isinstance(message.get(key), str):
                raise UsageError(f"message {index} needs a string under {key!r}, got {message.get(key)!r:.80}")


def _join(pieces: Iterable[str]) -> str:
    kept, size = [], 0
    for piece in pieces:
        kept.append(piece)
        size += len(piece)
        if size > MAX_CHARACTERS:
            raise SecurityError(f"it writes more than {MAX_CHARACTERS} characters; does it end?")
    return "".join(kept)


def _refuse(message: str) -> None:
    raise TemplateRefusal(message)


def _strftime_now(layout: str) -> str:
    return datetime.now().strftime(layout)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON as the model saw it in training: Jinja's own filter would write `<` as \\u003c."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    line = f" (line {error.lineno})" if isinstance(error, jinja2.TemplateSyntaxError) else ""
    return (text if isinstance(error, jinja2.TemplateError) else f"{type(error).__name__}: {text}") + line
