"""Conversations as `LLM.chat` takes them: parts, tools, a message to go on with, and what a template must be told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from engine.chat_template import ChatTemplate
from engine.conversation import ChatFormat, split_conversations, write_conversation
from engine.errors import UsageError

CHATS = json.loads((Path(__file__).parent.parent / "fixtures" / "chat_templates.json").read_text("utf-8"))
PLAIN = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}</>\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
PARTS = "{% for m in messages %}<{{ m.role }}>{% for p in m['content'] %}[{{ p.text }}]{% endfor %}</>{% endfor %}"
TOOLS = "{{ tools | tojson }}{{ messages[-1].tool_calls[0].function.arguments.city }}"
TALK = [{"role": "user", "content": "Hi"}]
TWO_PARTS = [{"role": "user", "content": [{"type": "text", "text": "Hi"}, {"type": "text", "text": "there"}]}]


def write(source: str, messages: Any = TALK, **chat: Any) -> str:
    return write_conversation(ChatTemplate(source, {}, "model"), messages, ChatFormat(**chat))


def test_one_conversation_or_several() -> None:
    assert split_conversations(TALK) == [TALK]
    assert split_conversations([TALK, TWO_PARTS]) == [TALK, TWO_PARTS]
    assert split_conversations([]) == []


def test_the_answer_begins_where_the_text_ends() -> None:
    assert write(PLAIN) == "<user>Hi</>\n<assistant>"
    assert write(PLAIN, add_generation_prompt=False) == "<user>Hi</>\n"


@pytest.mark.parametrize(
    ("source", "content_format", "text"),
    [
        (PLAIN, "auto", "<user>Hi\nthere</>\n<assistant>"),
        (PARTS, "auto", "<user>[Hi][there]</>"),
        (PARTS, "openai", "<user>[Hi][there]</>"),
        ("{{ messages[0].content | length }}", "openai", "2"),
        ("{{ messages[0].content | length }}", "string", "8"),
        ("{% for p in messages[0].content | list %}{{ p.text }}{% endfor %}", "auto", "Hithere"),
    ],
)
def test_parts_are_given_as_the_template_takes_them(source: str, content_format: str, text: str) -> None:
    assert write(source, TWO_PARTS, content_format=content_format) == text


def test_a_text_is_one_part() -> None:
    assert write(PARTS) == "<user>[Hi]</>"


@pytest.mark.parametrize("content", ["The sky is ", [{"type": "text", "text": "The sky is "}]])
@pytest.mark.parametrize(("source", "end"), [(PLAIN, "<assistant>The sky is "), (PARTS, "<assistant>[The sky is ][")])
def test_the_final_message_is_continued_as_it_was_written(source: str, end: str, content: Any) -> None:
    messages = [*TALK, {"role": "assistant", "content": content}]
    text = write(source, messages, add_generation_prompt=False, continue_final_message=True)
    assert text.endswith(end) and text.startswith("<user>")


def test_tools_and_their_calls_reach_the_template() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Bern"}'}}
    messages = [*TALK, {"role": "assistant", "content": None, "tool_calls": [call]}]
    assert write(TOOLS, messages, tools=[{"name": "weather"}]) == '[{"name": "weather"}]Bern'


def test_variables_reach_the_template() -> None:
    assert write("{{ enable_thinking }}", variables={"enable_thinking": False}) == "False"


@pytest.mark.parametrize(
    ("messages", "chat", "message"),
    [
        (TALK, {"content_format": "text"}, "must be one of auto, string, openai"),
        (TALK, {"continue_final_message": True}, "needs add_generation_prompt=False"),
        (TALK, {"tools": [{"name": "weather"}]}, "model: the chat template does not ask for 'tools'"),
        (TALK, {"variables": {"enable_thinking": False}}, "does not ask for 'enable_thinking'"),
        (TALK, {"variables": {"messages": []}}, "'messages': give it as the first argument"),
        (["Hi"], {}, "message 0 is a str"),
        ([*TALK, {"role": "user", "content": 3}], {}, "message 1 needs text or a list of text parts"),
        ([{"role": "user", "content": None}], {}, "message 0 needs text"),
        ([{"role": "assistant", "content": "", "tool_calls": 3}], {}, "message 0 needs a list under 'tool_calls'"),
        (
            [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}],
            {},
            "message 0 has a part of type 'image_url'; the engine reads text only",
        ),
        ([{"role": "user", "content": [{"type": "text"}]}], {}, "message 0 has the part {'type': 'text'}"),
        (
            [{"role": "assistant", "content": "", "tool_calls": [{"function": {"arguments": "{"}}]}],
            {},
            "message 0: the arguments of a tool call are not JSON",
        ),
    ],
)
def test_what_cannot_be_written_is_named(messages: Any, chat: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        write(PLAIN, messages, **chat)
    assert "\n" not in str(caught.value)


def test_a_template_that_drops_the_final_message_cannot_be_continued() -> None:
    with pytest.raises(UsageError, match="does not write out the final message"):
        write("{{ messages[0].role }}", TALK, add_generation_prompt=False, continue_final_message=True)


@pytest.mark.parametrize("case", CHATS["cases"], ids=lambda case: case["name"])
def test_conversations_of_plain_texts_are_written_as_transformers_does(case: dict[str, Any]) -> None:
    template = ChatTemplate(case["template"], CHATS["special_tokens"], "model")
    chat = ChatFormat("auto", case["add_generation_prompt"])
    assert write_conversation(template, case["messages"], chat) == case["text"]
