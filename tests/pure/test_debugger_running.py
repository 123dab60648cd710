"""Where the debugger stops: commands, breakpoints and labels, over calls that nobody makes."""

from __future__ import annotations

import io
import re
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from tools.trace.debugger.breakpoints import parse_place
from tools.trace.debugger.console import Console
from tools.trace.debugger.errors import Quit
from tools.trace.debugger.session import Debugger
from tools.trace.terminal import Screen

LAYER = ("attention", "attention", "mlp")


def event(number: int, label: str = "", call: str = "cuLaunchKernel", **more: Any) -> dict[str, Any]:
    return {"kind": "call", "n": number, "call": call, "args": {}, "label": label, "site": "none.py:1", **more}


def two_steps() -> list[dict[str, Any]]:
    """Calls 1, 2 outside; 3 to 8 step 1 with layers 0 and 1; 9 outside; 10 to 15 step 2."""
    events = [event(1, call="cuInit"), event(2, call="cuMemAlloc")]
    for step in (1, 2):
        for layer in (0, 1):
            for number, part in enumerate(LAYER):
                kernel = ("rmsnorm", "rope_kv_write", "silu_mul")[number]
                label = f"step {step} / decode / layer {layer} / {part}"
                events.append(event(len(events) + 1, label, kernel=kernel, op=kernel))
        events.append(event(len(events) + 1, call="cuEventSynchronize"))
    return events[:-1]


class Run:
    """A debugger over `events`, told what `script` says."""

    def __init__(self, script: Sequence[str], places: Sequence[str] = (), events: list[dict[str, Any]] | None = None):
        self.output = io.StringIO()
        self.debugger = Debugger(Console(script, screen=Screen(self.output)), [parse_place(text) for text in places])
        self.made: list[int] = []
        for each in two_steps() if events is None else events:
            self.debugger.before(each)
            self.made.append(each["n"])
            self.debugger.after(each | {"host_us": 1.0, "result": "ok"})

    @property
    def text(self) -> str:
        return self.output.getvalue()

    @property
    def stops(self) -> list[int]:
        """The numbers of the calls before which it stopped and was told something."""
        return [int(number) for number in re.findall(r"^before (\d+)> ", self.text, re.MULTILINE)]


@pytest.mark.parametrize(
    ("script", "stops"),
    [
        (["next", "n", "n 3", "c"], [1, 2, 3, 6]),
        (["until 7", "until 9", "c"], [1, 7, 9]),
        (["step", "step", "c"], [1, 3, 10]),
        (["step", "finish layer", "finish layer", "c"], [1, 3, 6, 9]),
        (["step", "finish step", "c"], [1, 3, 9]),
        (["step", "finish", "c"], [1, 3, 5]),
        (["step", "finish label", "f", "c"], [1, 3, 5, 6]),
        (["break kernel rope*", "c", "c", "c", "c", "c"], [1, 1, 4, 7, 11, 14]),
        (["tbreak kernel rope*", "c", "c"], [1, 1, 4]),
        (["break layer 1", "c", "c", "c"], [1, 1, 6, 13]),
        (["step", "break layer 0", "c", "c"], [1, 3, 3, 10]),
        (["break step 2", "c", "c"], [1, 1, 10]),
        (['break label "layer 1 / mlp"', "c", "c", "c"], [1, 1, 8, 15]),
        (["break call cuMem*", "c", "c"], [1, 1, 2]),
        (["break op silu_mul if layer == 1 and step == 2", "c", "c"], [1, 1, 15]),
        (["break step 1 if layer == 1", "c", "c"], [1, 1, 6]),
        (["b rmsnorm", "b cuMemAlloc", "c", "c", "delete 1", "c"], [1, 1, 1, 2, 3, 3]),
        (["b rmsnorm", "delete all", "c"], [1, 1, 1]),
        (["n; n; until 5; c"], [1, 2, 3, 5]),
    ],
)
def test_stops_where_it_was_told_to(script: list[str], stops: list[int]) -> None:
    run = Run(script)
    assert run.stops == stops
    assert run.made == [each["n"] for each in two_steps()]


def test_a_breakpoint_of_the_command_line_is_the_first_stop() -> None:
    assert Run(["c"], places=["layer 1 if step == 2"]).stops == [13]


def test_without_commands_the_program_runs_to_its_end() -> None:
    run = Run(["# nothing but a remark"])
    assert run.stops == [] and len(run.made) == 15


def test_out_makes_the_call_and_stays_behind_it() -> None:
    run = Run(["n", "out", "here", "next", "c"])
    assert re.findall(r"^(before|after) (\d+)> (\w+)", run.text, re.MULTILINE) == [
        ("before", "1", "next" if "before 1> next" in run.text else "n"),
        ("before", "2", "out"),
        ("after", "2", "here"),
        ("after", "2", "next"),
        ("before", "3", "c"),
    ]
    assert "returned ok after 1 us of host time" in run.text


def test_quit_ends_at_once_while_nothing_is_open() -> None:
    with pytest.raises(Quit):
        Run(["q"])


def opened_and_closed() -> list[dict[str, Any]]:
    """A context, work inside it, and what gives it back."""
    names = [
        "cuDevicePrimaryCtxRetain",
        "cuStreamCreate",
        "cuMemAlloc",
        "cuLaunchKernel",
        "cuMemFree",
        "cuStreamDestroy",
    ]
    return [event(number, call=name) for number, name in enumerate(names, start=1)]


@pytest.mark.parametrize(("script", "last"), [(["n 1", "q"], 3), (["n 2", "q"], 3), (["n 3", "q"], 3)])
def test_quit_waits_for_a_call_that_does_work(script: list[str], last: int) -> None:
    """Between two calls that open something, half of it would be left behind."""
    run = object.__new__(Run)
    with pytest.raises(Quit):
        run.__init__(script, events=opened_and_closed())  # type: ignore[misc]
    assert run.made[-1] == last


@pytest.mark.parametrize("script", [["until 5", "q"], ["until 4", "out", "q"]])
def test_quit_where_all_is_given_back_lets_that_happen(script: list[str]) -> None:
    assert Run(script, events=opened_and_closed()).made == [1, 2, 3, 4, 5, 6]


def test_an_error_that_kills_the_context_stops_the_program() -> None:
    output = io.StringIO()
    debugger = Debugger(Console(["c", "here", "c"], screen=Screen(output)))
    debugger.before(event(1))
    debugger.after(event(1) | {"host_us": 1.0, "result": "CUDA_ERROR_ILLEGAL_ADDRESS"})
    assert "returned CUDA_ERROR_ILLEGAL_ADDRESS" in output.getvalue() and "after 1> here" in output.getvalue()


@pytest.mark.parametrize(
    ("command", "answer"),
    [
        ("nxt", "no command is called 'nxt'; did you mean next?"),
        ("xyzzy", "no command is called 'xyzzy'; help lists them"),
        ("next 0", "next takes a number from 1 on, not '0'"),
        ("continue 3", "continue takes nothing behind it, not '3'"),
        ("finish layer", "this call belongs to no layer"),
        ("finish", "this call has no label to finish"),
        ("finish everything", "finish takes layer, step or label, not 'everything'"),
        ("until 1", "call 1 has been made already"),
        ("break", "break where? call NAME"),
        ("break layer x", "layer takes a number, as in break layer 2; not 'x'"),
        ("break kernel", "cannot break at 'kernel'; a place is: call NAME"),
        ("break nowhere at all", "cannot break at 'nowhere at all'; a place is: call NAME"),
        ("break kernel rmsnrm", "the engine has no kernel rmsnrm; did you mean rmsnorm?"),
        ("break op gemm if lyer == 3", "the condition 'lyer == 3' names 'lyer', which no call has"),
        ("break op gemm if layer =", "cannot read the condition 'layer ='"),
        ("break op gemm if __import__('os')", "may compare and calculate, and no more than that"),
        ("break op gemm if label.format", "asks for .format; an operand has .shape"),
        ("break op gemm if layer ** 2", "may compare and calculate, and no more than that"),
        ("delete 7", "there is no breakpoint 7"),
        ("delete", "delete takes a number from 1 on, not ''"),
        ("peek", "peek what? here: the name of a buffer, see memory"),
        ("peek q[", "cannot read 'q['"),
        ("peek q:f8[2]", "no element type is called 'f8'; there are bf16, f16"),
        ("peek q[a]", "cannot read the index [a]; it takes numbers, slices and ..."),
        ("stat nothing_here", "nothing is called nothing_here"),
        ("cu", "cuInit launches no kernel of cuda_src/"),
        ("batch", "the engine has not begun a step yet"),
        ("pages", "the engine has not begun a step yet"),
        ("kv", "write it as in: kv 17, kv 17 request 2"),
        ("help nxt", "no command is called 'nxt'; did you mean next?"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_the_session_goes_on(command: str, answer: str) -> None:
    run = Run([command, "n", "c"])
    answered = run.text.split(f"before 1> {command}\n")[1].splitlines()[:2]
    assert any(answer in line for line in answered)
    assert run.stops[-1] == 2


def test_help_has_a_line_for_each_command() -> None:
    text = Run(["help", "help break", "c"]).text
    for name in (
        "next",
        "out",
        "finish",
        "continue",
        "break",
        "tbreak",
        "peek",
        "stat",
        "hexdump",
        "diff",
        "pages",
        "kv",
    ):
        assert re.search(rf"^  {name}\b.*  \S", text, re.MULTILINE), name
    assert "short: b" in text


def test_breakpoints_are_listed_and_those_never_met_are_told_at_the_end() -> None:
    run = Run(["b kernel rope*", "b layer 7", "c", "breakpoints", "c"])
    assert "1  kernel rope*, met 1 time\n" in run.text and "2  layer 7, met 0 times\n" in run.text
    run.debugger.close()
    assert run.text.endswith("breakpoint 2 was never met: layer 7\n")


def test_an_interrupted_session_says_nothing_more() -> None:
    """What is called while the program cleans up behind Ctrl-C is not for the debugger."""

    def script() -> Iterator[str]:
        yield "out"
        raise KeyboardInterrupt

    output = io.StringIO()
    debugger = Debugger(Console(script(), screen=Screen(output)))
    debugger.before(event(1))
    with pytest.raises(KeyboardInterrupt):
        debugger.after(event(1) | {"host_us": 1.0, "result": "ok"})
    debugger.before(event(2, call="cuMemFree"))
    debugger.after(event(2, call="cuMemFree") | {"host_us": 1.0, "result": "ok"})
    assert "call 1" in output.getvalue() and "call 2" not in output.getvalue()


def test_no_stop_while_an_interrupt_unwinds() -> None:
    output = io.StringIO()
    debugger = Debugger(Console(["b cuMemFree", "c"], screen=Screen(output)))
    debugger.before(event(1))
    try:
        raise KeyboardInterrupt
    except KeyboardInterrupt:
        debugger.before(event(2, call="cuMemFree"))
    assert "call 1" in output.getvalue() and "call 2" not in output.getvalue()


def test_other_threads_are_not_stopped() -> None:
    output = io.StringIO()
    debugger = Debugger(Console(["c"], screen=Screen(output)))
    thread = threading.Thread(target=debugger.before, args=(event(1),))
    thread.start()
    thread.join()
    assert output.getvalue() == ""
