"""A conversation as `LLM.chat` takes it -> the text that the model continues, by its chat template."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from engine.arguments import one_of
from engine.chat_template import ChatTemplate
from engine.errors import UsageError

Message = Mapping[str, Any]
Conversations = Sequence[Message] | Sequence[Sequence[Message]]
ContentFormat = Literal["auto", "string", "openai"]

# Stands for the place where a final message ends; from Unicode's private use area, so that no tokenizer knows it.
_END = "\ue000\ue001\ue000"


@dataclass(frozen=True)
class ChatFormat:
    """How a conversation is to be written, under vLLM's names.

    content_format: give the template each content as one text (`string`) or as a list of parts (`openai`); `auto`: as
        a list if the template loops over contents.
    add_generation_prompt: end where the assistant's answer begins. continue_final_message: end where the final message
        ends, so that the answer goes on with it; one excludes the other.
    tools: descriptions of functions for the template. variables: what else it asks for, such as `enable_thinking`.
    Raises UsageError for what is unknown or contradictory.
    """

    content_format: ContentFormat = "auto"
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    tools: Sequence[Mapping[str, Any]] | None = None
    variables: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        one_of("chat_template_content_format", self.content_format, get_args(ContentFormat))
        if self.continue_final_message and self.add_generation_prompt:
            raise UsageError("continue_final_message=True needs add_generation_prompt=False: no new answer is begun")


def split_conversations(messages: Conversations) -> list[Sequence[Message]]:
    """The conversations of one argument that holds one (a list of messages) or several (a list of such lists)."""
    if messages and isinstance(messages[0], Mapping):
        return [messages]  # type: ignore[list-item]
    return list(messages)  # type: ignore[arg-type]


def write_conversation(template: ChatTemplate, messages: Sequence[Message], chat: ChatFormat) -> str:
    """The conversation in the template's format.

    Raises:
        UsageError: a message is not text, or the template refuses the conversation or has no such variable.
        ModelError: the template is broken.
    """
    variables = dict(chat.variables) | ({"tools": list(chat.tools)} if chat.tools else {})
    _check_variables(template, variables)
    as_parts = chat.content_format == "openai" or (chat.content_format == "auto" and template.loops_over_content)
    written = [_as_template_takes_it(number, message, as_parts) for number, message in enumerate(messages)]
    if not chat.continue_final_message:
        return template.render(written, chat.add_generation_prompt, variables)
    return _up_to_the_end_of_the_last(template, written, variables)


def _check_variables(template: ChatTemplate, variables: Mapping[str, Any]) -> None:
    own = {"messages": "the first argument", "add_generation_prompt": "its own argument"}
    for name in variables:
        if name in own:
            raise UsageError(f"chat_template_kwargs has {name!r}: give it as {own[name]}")
        if name not in template.variables:
            raise UsageError(
                f"{template.name}: the chat template does not ask for {name!r}, it would change nothing: leave it out, "
                "or give a chat_template that does"
            )


def _up_to_the_end_of_the_last(template: ChatTemplate, messages: list[dict[str, Any]], variables: Message) -> str:
    """The conversation without what the template puts after the final message."""
    marked = messages[:-1] + [_marked(message) for message in messages[-1:]]
    text = template.render(marked, add_generation_prompt=False, variables=variables)
    if _END not in text:
        raise UsageError(f"{template.name}: the chat template does not write out the final message, to go on with it")
    return text[: text.rindex(_END)]


def _marked(message: dict[str, Any]) -> dict[str, Any]:
    content = message["content"]
    if isinstance(content, str):
        return message | {"content": content + _END}
    return message | {"content": [*content, {"type": "text", "text": _END}]}


def _as_template_takes_it(number: int, message: Message, as_parts: bool) -> dict[str, Any]:
    if not isinstance(message, Mapping):
        raise UsageError(f"message {number} is a {type(message).__name__}, expected a dict with 'role' and 'content'")
    texts = _texts(number, message)
    content = [{"type": "text", "text": text} for text in texts] if as_parts else "\n".join(texts)
    given = {**message, "content": content}
    if message.get("tool_calls"):
        if not isinstance(message["tool_calls"], list):
            raise UsageError(f"message {number} needs a list under 'tool_calls', got {message['tool_calls']!r:.80}")
        given["tool_calls"] = [_with_parsed_arguments(number, call) for call in message["tool_calls"]]
    return given


def _texts(number: int, message: Message) -> list[str]:
    """The texts of a message: its content is one, or a list of parts."""
    content = message.get("content")
    if isinstance(content, str):
        return [content]
    if content is None and message.get("tool_calls"):
        return []
    if not isinstance(content, list):
        raise UsageError(f"message {number} needs text or a list of text parts under 'content', got {content!r:.80}")
    return [_text(number, part) for part in content]


def _text(number: int, part: Any) -> str:
    if isinstance(part, str):
        return part
    if not isinstance(part, Mapping) or part.get("type") != "text" or not isinstance(part.get("text"), str):
        kind = part.get("type") if isinstance(part, Mapping) else None
        what = f"a part of type {kind!r}" if kind != "text" else f"the part {part!r:.80}"
        raise UsageError(f'message {number} has {what}; the engine reads text only: {{"type": "text", "text": ...}}')
    return str(part["text"])


def _with_parsed_arguments(number: int, call: Any) -> Any:
    """A tool call with its arguments as a dict, which templates expect; OpenAI's format has them as JSON text."""
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("arguments"), str):
        return call
    try:
        arguments = json.loads(function["arguments"] or "{}")
    except json.JSONDecodeError as error:
        raise UsageError(f"message {number}: the arguments of a tool call are not JSON: {error}") from None
    return {**call, "function": {**function, "arguments": arguments}}
