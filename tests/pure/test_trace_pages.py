"""tools/trace/kv_pages.py: what happens to the pages, in words and in cells."""

from __future__ import annotations

import io
import re

import pytest

from bindings.trace import Event
from tests.trace_events import feed, note
from tools.trace.kv_pages import PagesView
from tools.trace.terminal import Screen


@pytest.fixture(autouse=True)
def no_width(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is printed into these tests is as wide as it likes."""
    monkeypatch.delenv("COLUMNS", raising=False)


def shown(
    *notes: Event, steps: list[tuple[int, int]] | None = None, fold: bool = True, colour: str = "never"
) -> list[str]:
    """The lines of the view behind its heading."""
    stream = io.StringIO()
    feed(PagesView(Screen(stream, colour), steps, fold), list(notes))
    return stream.getvalue().splitlines()[3:]


def cells(lines: list[str]) -> list[str]:
    """The strips of cells."""
    return [match[1] for line in lines if (match := re.fullmatch(r" {5,}\d+  ([0-9A-Za-z#.]+)", line))]


def test_two_prompts_that_begin_alike_share_a_page() -> None:
    lines = shown(
        note(1, prefills=[[0, 0, 26], [1, 16, 26]], tables={"0": [0, 1], "1": [0, 2]}, free=37, running=2),
    )
    assert lines == [
        "step 1: prefills 0[0:26] 1[16:26]; 3 of 40 pages held, 0 cached",
        "  request 0 has the block table [0 1]",
        "  request 1 has the block table [0 2]; it shares page 0 with request 0, so its first 16 tokens",
        "  need no computing",
        "      0  #01",
        "         and 37 pages more",
    ]


@pytest.mark.parametrize("lies_free", [True, False])
def test_a_prompt_takes_pages_back_from_the_cache(lies_free: bool) -> None:
    """Whether a step passes in which nobody holds them or not."""
    between = note(2, released=[0], cached=[0, 1], prefills=[[5, 0, 3]], tables={"5": [4]}, free=39, running=1)
    lines = shown(
        note(1, prefills=[[0, 0, 40]], tables={"0": [0, 1, 2]}, free=37, running=1),
        *([between] if lies_free else []),
        note(3, released=[] if lies_free else [0], prefills=[[1, 32, 40]], tables={"1": [0, 1, 3]}, free=36, running=2),
    )
    words = " ".join(line.strip() for line in lines)
    assert "request 0 has ended, and holds no page any more" in words
    assert "it takes pages 0 1 back from the cache, so its first 32 tokens need no computing" in words
    assert cells(lines) == (["000", "cc..5", "11.15"] if lies_free else ["000", "11.1"])


def test_another_answer_to_a_prompt_that_has_run_begins_with_its_pages() -> None:
    lines = shown(
        note(1, prefills=[[0, 0, 20]], tables={"0": [0, 1]}, free=38, running=1),
        note(2, decodes=[[0, 20], [1, 19]], copies=[[1, 2, 3]], tables={"1": [0, 2]}, free=37, running=2),
    )
    words = " ".join(line.strip() for line in lines)
    assert "request 1 has the block table [0 2]; it shares page 0 with request 0, so its first 19 tokens need" in words


def test_copy_on_write_is_told() -> None:
    lines = shown(
        note(1, prefills=[[0, 0, 20]], tables={"0": [0, 1]}, free=38, running=1),
        note(
            2, decodes=[[0, 20]], prefills=[[1, 19, 20]], copies=[[1, 2, 4]], tables={"1": [0, 2]}, free=37, running=2
        ),
    )
    words = " ".join(line.strip() for line in lines)
    assert (
        "copy-on-write: page 1 is shared and about to be written to, so its first 4 tokens are copied to page 2"
        in words
    )
    assert cells(lines)[-1] == "#01"


def test_preemption_is_told_and_its_request_may_come_back() -> None:
    lines = shown(
        note(1, prefills=[[0, 0, 16], [1, 0, 16]], tables={"0": [0], "1": [1]}, free=0, num_pages=2, running=2),
        note(2, decodes=[[0, 16]], preempted=[1], tables={"0": [0, 1]}, free=0, num_pages=2, running=1, waiting=1),
        note(3, released=[0], prefills=[[1, 0, 17]], tables={"1": [1, 0]}, free=0, num_pages=2, running=1),
    )
    assert lines.count("step 2: decodes 0@16; 1 waiting; 2 of 2 pages held, 0 cached") == 1
    told = "  request 1 is preempted: memory was short, its pages went back, and it will begin anew"
    assert lines.count(told) == 1 and cells(lines) == ["01", "00", "11"]
    assert not any("shares" in line for line in lines)


def test_a_request_does_not_share_with_itself_when_it_comes_back_at_once() -> None:
    lines = shown(
        note(1, prefills=[[0, 0, 16]], tables={"0": [0]}, free=1, num_pages=2, running=1),
        note(2, preempted=[0], prefills=[[0, 0, 16]], tables={"0": [0]}, free=1, num_pages=2, running=1),
    )
    assert not any("shares" in line for line in lines)


def test_steps_that_change_nothing_are_one_line() -> None:
    quiet = [note(number, decodes=[[0, number], [3, number]], free=30, running=2) for number in range(1, 9)]
    growing = note(9, decodes=[[0, 9], [3, 9]], tables={"0": [0]}, free=29, running=2)
    lines = shown(*quiet, growing, note(10, decodes=[[0, 10], [3, 10]], free=29, running=2))
    heads = [line for line in lines if line.startswith("step")]
    assert heads == [
        "step 1: decodes 0@1 3@1; 10 of 40 pages held, 0 cached",
        "steps 2 to 8: decodes 0 3, a token each in every step; no page changes hands",
        "step 9: decodes 0@9 3@9; 11 of 40 pages held, 0 cached",
        "step 10: decodes 0@10 3@10; 11 of 40 pages held, 0 cached",  # one alone is told as it is
    ]
    assert sum(line.startswith("step ") for line in shown(*quiet, fold=False)) == 8


def test_chosen_steps_know_what_happened_before_them() -> None:
    first = note(1, prefills=[[0, 0, 20]], tables={"0": [0, 1]}, free=38, running=1)
    second = note(2, prefills=[[1, 16, 20]], tables={"1": [0, 2]}, free=37, running=2)
    lines = shown(first, second, steps=[(2, 2)])
    assert cells(lines) == ["#01"] and not any("step 1" in line for line in lines)
    assert any("it shares page 0 with request 0" in line for line in lines)


def test_a_large_pool_shows_the_rows_that_are_held() -> None:
    lines = shown(note(1, prefills=[[0, 0, 32]], tables={"0": [3, 9_990]}, num_pages=10_000, free=9_998, running=1))
    assert [line.split()[0] for line in lines if re.match(r" +\d+  ", line)] == ["0", "9920"]
    assert cells(lines)[0].startswith("...0") and lines[-1].endswith("pages more")


def test_requests_beyond_ten_say_their_sign_and_colours_change_no_letter() -> None:
    one = note(1, prefills=[[12, 0, 5], [200, 0, 5]], tables={"12": [0], "200": [1]}, free=38, running=2)
    plain, coloured = shown(one), shown(one, colour="always")
    assert plain[1].startswith("  request 12 (C) has") and cells(plain)[0][0] == "C"
    assert [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in coloured] == plain and "\x1b[" in "".join(coloured)


def test_another_engine_begins_with_an_empty_pool() -> None:
    lines = shown(
        note(1, prefills=[[0, 0, 20]], tables={"0": [0, 1]}, free=38, running=1),
        note(1, prefills=[[0, 0, 5]], tables={"0": [0]}, num_pages=8, free=7, running=1),
    )
    assert "Another engine has 8 pages of 16 tokens each." in lines and cells(lines) == ["00", "0"]


def test_a_run_without_steps_says_so() -> None:
    stream = io.StringIO()
    feed(PagesView(Screen(stream, "never")), [])
    assert stream.getvalue().splitlines()[-1] == "no step of an engine was seen, so there are no KV pages to show"
