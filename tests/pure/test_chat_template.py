"""Chat templates: the same text as transformers, and nothing else that a template could do."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest

from engine.chat_template import MAX_CHARACTERS, ChatTemplate
from engine.errors import ModelError, UsageError

CHATS = json.loads((Path(__file__).parent.parent / "fixtures" / "chat_templates.json").read_text("utf-8"))
TALK = [{"role": "user", "content": "x" * 1000}]


def render(source: str, messages: Any = TALK) -> str:
    return ChatTemplate(source, {"bos_token": "<s>"}, "model").render(messages)


@pytest.mark.parametrize("case", CHATS["cases"], ids=lambda case: case["name"])
def test_renders_as_transformers_does(case: dict[str, Any]) -> None:
    template = ChatTemplate(case["template"], CHATS["special_tokens"], "model")
    assert template.render(case["messages"], case["add_generation_prompt"]) == case["text"]


def test_strftime_now_gives_the_date() -> None:
    assert re.fullmatch(r"\d\d \w{3} 20\d\d", render("{{ strftime_now('%d %b %Y') }}"))


def test_template_can_be_used_again() -> None:
    template = ChatTemplate("{% for i in range(90000) %}{% endfor %}done", {}, "model")
    assert [template.render(TALK), template.render(TALK)] == ["done", "done"]  # the budget is for one rendering


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__ }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.__init__.__globals__ }}",
        "{{ messages | attr('__class__') }}",
        "{{ raise_exception.__globals__ }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update(role='x') }}",
        "{{ '{0.__class__}'.format(messages) }}",
    ],
)
def test_reaching_out_of_the_sandbox_is_refused(source: str) -> None:
    with pytest.raises(ModelError, match="the chat template failed") as caught:
        render(source)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "source",
    [
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{% for i in range(10 ** 12) %}{% endfor %}",
        "{% for a in messages[0].content %}{% for b in messages[0].content %}{% for c in messages[0].content %}"
        "{% endfor %}{% endfor %}{% endfor %}",
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(90) }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        f"{{% set s = 'x' * 100000 %}}{{% for i in range({MAX_CHARACTERS // 100000 + 2}) %}}{{{{ s }}}}{{% endfor %}}",
        "{% for a in messages recursive %}{{ loop(messages) }}{{ loop(messages) }}{% endfor %}",
    ],
    ids=["ranges", "one-range", "strings", "macros", "recursion", "output", "recursive-loop"],
)
def test_template_without_end_is_stopped(source: str) -> None:
    start = time.monotonic()
    with pytest.raises(ModelError, match="the chat template failed"):
        render(source)
    assert time.monotonic() - start < 30  # a budget of steps, so about a second; without one, hours


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{% for %}", r"does not parse: .*\(line 1\)"),
        ("ok\n{% endif %}", r"does not parse: .*\(line 2\)"),
        ("{{ messages | no_such_filter }}", "does not parse: No filter named 'no_such_filter'"),
        ("{{ 1 / 0 }}", "failed: ZeroDivisionError"),
        ("{{ nothing.here }}", "failed: 'nothing' is undefined"),
        ("{{ messages[0]['content'] + 1 }}", "failed: TypeError"),
        ("{% include 'other' %}", "failed: "),
    ],
)
def test_broken_template_is_a_model_error_in_one_line(source: str, message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        render(source)
    assert str(caught.value).startswith("model: the chat template ")
    assert "\n" not in str(caught.value)


def test_refusal_by_the_template_is_the_users_affair() -> None:
    source = (
        "{% if messages[0].role != 'system' %}{{ raise_exception('A system message\nmust come first') }}{% endif %}"
    )
    with pytest.raises(UsageError, match="refuses these messages: A system message must come first"):
        render(source)


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([], "at least one message"),
        (["hi"], "message 0 is a str"),
        ([TALK[0], {"role": "user"}], "message 1 needs a string under 'content', got None"),
        ([{"content": "hi"}], "message 0 needs a string under 'role'"),
        ([{"role": "user", "content": ["parts"]}], "message 0 needs a string under 'content'"),
    ],
)
def test_malformed_messages_are_refused(messages: list[Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        render("{{ messages }}", messages)
