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
from tests.mutations import bounded_memory

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
    "source",
    [
        "{{ 'x' * 10 ** 12 }}",
        "{{ 10 ** 99999 }}",
        "{% set ns = namespace(n=3) %}{% for i in range(99) %}{% set ns.n = ns.n * ns.n %}{% endfor %}",
        "{{ ([0] * 10 ** 10) | length }}",
        "{% set ns = namespace(s='x') %}{% for i in range(60) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
        "{% set ns = namespace(s='x') %}{% for i in range(60) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
        "{% set ns = namespace(l=[1]) %}{% for i in range(60) %}{% set ns.l = [ns.l, ns.l] %}{% endfor %}{{ ns.l }}",
        "{% set ns = namespace(d=1) %}{% for i in range(60) %}{% set ns.d = {1: ns.d, 2: ns.d} %}{% endfor %}",
        "{% set ns = namespace(t=1) %}{% for i in range(60) %}{% set ns.t = (ns.t, ns.t) %}{% endfor %}",
        "{{ 'x'.ljust(10 ** 12) }}",
        "{{ 'x' | center(10 ** 12) }}",
        "{{ 'x' | indent(10 ** 12, true) }}",
        "{{ (1).to_bytes(10 ** 12, 'big') }}",
        "{{ 'x'.encode() * 10 ** 12 }}",
        "{{ 'x'.encode().ljust(10 ** 12) }}",
        "{{ '%1000000000000d'.encode() % 1 }}",
        "{{ '%1000000000000d' % 1 }}",
        "{{ '%*d' % (10 ** 12, 1) }}",
        "{{ '{:1000000000000}'.format(1) }}",
        "{{ '{:{}}'.format(1, 10 ** 12) }}",
        "{{ '%1000000000000d' | format(1) }}",
        "{% set s = 'x' * 99999 %}{{ s.replace('x', s) }}",
        "{% set s = 'x' * 99999 %}{{ s | replace('x', s) }}",
        "{% set s = 'x' * 99999 %}{{ s.join(s) }}",
        "{% set s = 'x' * 99999 %}{{ s | list | join(s) }}",
        "{% set s = 'x' * 99999 %}{{ s | map('upper') | join(s) }}",
        "{{ messages | tojson(indent=10 ** 9) }}",
        "{{ lipsum(10 ** 9) }}",
        "{{ [1] | batch(10 ** 9, 'x') | list }}",
        "{{ [1] | slice(10 ** 9) | list }}",
        "{% set s = 'x' * 9999999 %}{% for i in range(99999) %}{% set t = s.count('y') %}{% endfor %}",
        "{% set s = 'x' * 9999999 %}{% for i in range(99999) %}{% if 'y' in s %}{% endif %}{% endfor %}",
        "{% set s = 'x' * 9999999 %}{% set ns = namespace(l=[]) %}"
        "{% for i in range(99999) %}{% set ns.l = ns.l + [s[1:]] %}{% endfor %}",
        "{% set s = 'x' * 9999999 %}{% macro m() %}{% for i in range(999) %}{{ s }}{% endfor %}{% endmacro %}{{ m() }}",
        "{% set s = 'x' * 9999999 %}{% set t %}{% for i in range(9999) %}{{ s }}{% endfor %}{% endset %}{{ t }}",
        "{% set s = 'x' * 9999999 %}{% filter upper %}{% for i in range(9999) %}{{ s }}{% endfor %}{% endfilter %}",
    ],
)
def test_template_takes_a_bounded_time_and_memory(source: str) -> None:
    start = time.monotonic()
    with bounded_memory(1 << 30), pytest.raises(ModelError, match="the chat template failed: ") as caught:
        render(source)
    # From the budget, and not from an allocation that the machine refused.
    assert "MemoryError" not in str(caught.value) and "\n" not in str(caught.value)
    assert time.monotonic() - start < 30  # a second at most; without a budget, hours


def test_ordinary_numbers_and_formats_are_let_in() -> None:
    assert render("{{ nothing | default(10 ** 9) }}") == "1000000000"
    assert render("{{ '%5.2f|%s' % (3.14159, 'x') }}{{ '{:>4}{{\"a\": {}}}'.format(1, 2) }}") == ' 3.14|x   1{"a": 2}'


def test_a_long_conversation_is_within_the_budget() -> None:
    """A thousand messages through a template of the usual kind, which looks back and filters, and keeps a text."""
    source = (
        "{% set ns = namespace(text='') %}{% for m in messages %}"
        "{% if m.role == 'user' and messages[0].role != 'system' %}"
        "{% set ns.text = ns.text + m.content | trim %}{% endif %}"
        "{{ '<|' ~ m.role ~ '|>' + (m.content | replace('<think>', '')).strip().split('</s>')[-1] }}"
        "{% endfor %}{{ messages | length }}{{ ns.text | length }}"
    )
    talk = [{"role": "user", "content": "word " * 40}] * 1000
    assert render(source, talk).endswith("1000199000")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{% for i in x %}" * 30 + "{% endfor %}" * 30, "does not parse: SyntaxError"),
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
