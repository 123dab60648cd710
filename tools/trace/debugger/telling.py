"""Commands that tell about the call: its arguments, what it is for, where in the program it is, its source."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from bindings.memory import memory_map
from tools.trace.debugger import show
from tools.trace.debugger.command import Command, count, nothing_more
from tools.trace.debugger.errors import CommandError
from tools.trace.debugger.source import call_stack, kernel_file, kernel_lines
from tools.trace.explanations import Explainer
from tools.trace.terminal import wrapped

if TYPE_CHECKING:
    from tools.trace.debugger.session import Debugger

AROUND = 8  # lines of Python on both sides, for `source`


def here(session: Debugger, rest: str) -> None:
    nothing_more("here", rest)
    session.show_stop()


def args(session: Debugger, rest: str) -> None:
    nothing_more("args", rest)
    for line in show.all_arguments(session.event):
        session.write(line)


def explain(session: Debugger, rest: str) -> None:
    nothing_more("explain", rest)
    width = session.console.width
    for sentence in Explainer()(session.event):
        session.write("\n".join(wrapped(sentence.split(), width, width, 0)))


def where(session: Debugger, rest: str) -> None:
    nothing_more("where", rest)
    session.write(f"label: {session.event['label'] or '(none)'}")
    for number, (site, function, text) in enumerate(call_stack(sys._getframe())):
        session.write(f"  #{number:<2} {site} in {function}")
        session.write(f"        {session.console.paint(text, 'dim')}")


def source(session: Debugger, rest: str) -> None:
    around = count("source", rest) if rest else AROUND
    for line in show.python(session.event["site"], around, session.console.paint, session.console.screen.width):
        session.write(line)


def cu(session: Debugger, rest: str) -> None:
    name, entry = session.event.get("source"), session.event.get("kernel", "")
    if name is None:
        raise CommandError(f"{session.event['call']} launches no kernel of cuda_src/")
    lines = kernel_file(name)
    numbers = range(1, len(lines) + 1) if rest == "all" else kernel_lines(lines, entry)
    if rest not in ("", "all"):
        numbers = range(numbers.start, min(numbers.start + count("cu", rest), len(lines) + 1))
    defines = " ".join(f"{key}={value}" for key, value in session.event["defines"].items())
    session.write(f"cuda_src/{name}, compiled with {defines or 'no constants'}")
    for number in numbers:
        session.write(f"{session.console.paint(f'{number:>5}', 'dim')}  {lines[number - 1]}")


def memory(session: Debugger, rest: str) -> None:
    nothing_more("memory", rest)
    for line in show.memory(memory_map.live()):
        session.write(line)


COMMANDS = (
    Command("here", "show again where the program stands", here),
    Command("args", "all arguments of the call", args, ("a",)),
    Command("explain", "what the call does, and why the engine makes it here", explain, ("e",)),
    Command("where", "the label, and the calls in Python that led here", where, ("w", "bt")),
    Command("source [N]", f"the Python around the call, N lines on both sides (default {AROUND})", source, ("l",)),
    Command("cu [N|all]", "the kernel's CUDA source, N lines from its head, or the whole file", cu),
    Command("memory", "the buffers on the device, by owner and size", memory, ("m",)),
)
