"""A model's chat template: messages -> the text that the model was trained to continue.

A template is a Jinja program that comes with the model, so it is somebody else's code. It runs in Jinja's
sandbox (no attributes that begin with an underscore, no changes to what it is given) and on a budget of time
and memory: template_sandbox.py.

Conventions are those of Hugging Face transformers (https://huggingface.co/docs/transformers/chat_templating):
`trim_blocks` and `lstrip_blocks`; `break` and `continue`; the names `messages`, `tools`, `add_generation_prompt`,
`bos_token`, `eos_token`; the functions `raise_exception` and `strftime_now`; a `tojson` that does not escape
HTML; the tag `generation`.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import jinja2
from jinja2 import meta, nodes
from jinja2.exceptions import SecurityError

from engine.errors import ModelError, UsageError
from engine.template_sandbox import TemplateSandbox

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

    Attributes:
        variables: the names that the template asks for, beside those that it defines itself.
        loops_over_content: whether it takes a message's content apart, so that this may have to be a list of parts.

    Raises:
        ModelError: the source is not valid Jinja.
    """

    def __init__(self, source: str, special_tokens: Mapping[str, str], name: str) -> None:
        self.name, self.special_tokens = name, dict(special_tokens)
        self._environment = TemplateSandbox()
        self._environment.globals.update(raise_exception=_refuse, strftime_now=_strftime_now)
        self._environment.use_filters(tojson=_tojson)
        self._lock = threading.Lock()  # the environment counts the steps of one rendering at a time
        try:
            tree = self._environment.parse(source)
            self.variables = frozenset(meta.find_undeclared_variables(tree))
            self.loops_over_content = any(_is_content(loop.iter) for loop in tree.find_all(nodes.For))
            self._template = self._environment.from_string(self._environment.parsed(source))
        except Exception as error:  # Jinja's, and Python's for what Jinja makes of it: 21 loops in each other
            raise ModelError(f"{name}: the chat template does not parse: {_one_line(error)}") from error

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        add_generation_prompt: bool = True,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """Format `messages`, each a mapping with at least "role" (text) and "content" (text, or a list of text parts).

        With `add_generation_prompt` the text ends where the assistant's answer begins. `variables`: further ones for
        the template, such as `tools`.

        Raises:
            UsageError: a message lacks its role or content, or the template refuses the conversation.
            ModelError: the template itself is at fault: it fails, reaches out of the sandbox, or does not
                end.
        """
        _check_messages(messages)
        values = {
            **self.special_tokens,
            "tools": None,
            "documents": None,
            **(variables or {}),
            "messages": [dict(message) for message in messages],
            "add_generation_prompt": add_generation_prompt,
        }
        with self._lock:
            self._environment.refill()
            try:
                return _join(self._template.generate(values))
            except TemplateRefusal as error:
                raise UsageError(
                    f"{self.name}: the chat template refuses these messages: {_one_line(error)}"
                ) from error
            except Exception as error:  # a template can fail in every way in which Python can
                raise ModelError(f"{self.name}: the chat template failed: {_one_line(error)}") from error


def _check_messages(messages: Sequence[Mapping[str, Any]]) -> None:
    if not messages:
        raise UsageError("a conversation needs at least one message")
    for index, message in enumerate(messages):
        if not isinstance(message, Mapping):
            raise UsageError(
                f"message {index} is a {type(message).__name__}, expected a dict with 'role' and 'content'"
            )
        for key in ("role", "content"):
            if not isinstance(message.get(key), str) and not (key == "content" and _is_parts(message.get(key))):
                raise UsageError(f"message {index} needs a string under {key!r}, got {message.get(key)!r:.80}")


def _is_parts(content: Any) -> bool:
    return isinstance(content, list) and all(isinstance(part, Mapping) for part in content)


def _is_content(node: nodes.Node) -> bool:
    """Whether an expression is `message.content` or `message["content"]`, filtered or not."""
    while isinstance(node, nodes.Filter) and node.node is not None:
        node = node.node
    if isinstance(node, nodes.Getattr):
        return node.attr == "content"
    return isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Const) and node.arg.value == "content"


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
