"""The commands of the debugger, in the order in which `help` lists them, and what a typed line comes to."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING

from tools.trace.debugger import looking, paging, running, stopping, telling
from tools.trace.debugger.breakpoints import KINDS, kernel_names
from tools.trace.debugger.command import Command
from tools.trace.debugger.errors import CommandError, check_length
from tools.trace.debugger.goals import Goal

if TYPE_CHECKING:
    from tools.trace.debugger.session import Debugger


def show_help(session: Debugger, rest: str) -> None:
    """All commands, or one."""
    if rest:
        command = find(rest)
        session.write(f"  {command.usage}: {command.summary}")
        session.write(f"  short: {', '.join(command.aliases)}" if command.aliases else "  it has no shorter name")
        return
    for title, commands in GROUPS.items():
        session.write(session.console.paint(title, "bold"))
        for command in commands:
            short = f" ({command.aliases[0]})" if command.aliases else ""
            session.write(f"  {command.usage + short:<34}  {command.summary}")


GROUPS: dict[str, tuple[Command, ...]] = {
    "run": running.COMMANDS,
    "stop": stopping.COMMANDS,
    "this call": telling.COMMANDS,
    "device memory": looking.COMMANDS,
    "the KV cache": paging.COMMANDS,
    "help": (Command("help [COMMAND]", "this list, or one command of it", show_help, ("h", "?")),),
}
BY_NAME = {name: one for group in GROUPS.values() for one in group for name in (one.name, *one.aliases)}


def find(word: str) -> Command:
    """The command of that name. Raises CommandError with the nearest name when there is none."""
    if word not in BY_NAME:
        nearest = get_close_matches(word, BY_NAME, n=1)
        hint = f"did you mean {nearest[0]}?" if nearest else "help lists them"
        raise CommandError(f"no command is called {word!r}; {hint}")
    return BY_NAME[word]


def perform(session: Debugger, line: str) -> Goal | None:
    """Do what a command says; an empty one goes to the next call."""
    check_length(line)
    word, _, rest = line.partition(" ")
    return find(word or "next").run(session, rest.strip())


def completions(session: Debugger, line: str, word: str) -> list[str]:
    """What `word`, the last of `line`, could become."""
    command, _, before = line[: len(line) - len(word)].lstrip().partition(" ")
    if not command:
        return sorted(one.name for group in GROUPS.values() for one in group)
    name = BY_NAME[command].name if command in BY_NAME else ""
    if name in ("break", "tbreak"):
        return kernel_names() if before.strip() == "kernel" else list(KINDS)
    if name in ("peek", "stat", "diff", "hexdump"):
        return [*session.operands, *session.memory.names]
    return {"finish": ["layer", "step", "label"], "help": sorted(BY_NAME), "cu": ["all"]}.get(name, [])
