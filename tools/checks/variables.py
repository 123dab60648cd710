"""Variables of the environment that change what a run does, and those among them that can't be."""

from __future__ import annotations

import os
from collections.abc import Callable

from bindings.errors import CutawayError
from tools.checks.check import Check, first_line

# Names or beginnings of names that are shown; tokens are told by their presence alone.
SHOWN = ("CUTAWAY_", "CUDA_VISIBLE_DEVICES", "HF_", "CXX", "NO_COLOR", "XDG_CACHE_HOME")
SECRET = ("TOKEN", "KEY", "PASSWORD")


def _device() -> None:
    from bindings import backend

    backend.requested_kind(None)


def _threads() -> None:
    from bindings.cpu.executor import thread_count

    thread_count()


def _memory() -> None:
    from bindings.cpu.host import memory_limit

    memory_limit()


def _fences() -> None:
    from bindings.cpu.fences import set_fences_from_environment

    set_fences_from_environment()


def _schedule() -> None:
    from bindings.cpu.driver import schedule_from_environment

    schedule_from_environment()


def _streams() -> None:
    from bindings.cpu.streams import set_streams_from_environment

    set_streams_from_environment()


def _check() -> None:
    from bindings.cpu.checks import set_checks_from_environment

    set_checks_from_environment()


def _leaks() -> None:
    from bindings.cpu.leaks import set_leaks_from_environment

    set_leaks_from_environment()


def _trace() -> None:
    from bindings.trace import print_level

    print_level()


def _any_value() -> None:
    pass


# Every variable of ours, with what raises CutawayError when its value can't be.
READERS: dict[str, Callable[[], None]] = {
    "CUTAWAY_CACHE": _any_value,
    "CUTAWAY_DEVICE": _device,
    "CUTAWAY_CPU_THREADS": _threads,
    "CUTAWAY_CPU_MEMORY": _memory,
    "CUTAWAY_CPU_FENCES": _fences,
    "CUTAWAY_CPU_SCHEDULE": _schedule,
    "CUTAWAY_CPU_STREAMS": _streams,
    "CUTAWAY_CPU_LEAKS": _leaks,
    "CUTAWAY_CPU_CHECK": _check,
    "CUTAWAY_TRACE": _trace,
}


def probe() -> list[Check]:
    """One check for each variable that is set; `environment` alone where none is."""
    names = sorted(name for name in os.environ if name.startswith(SHOWN))
    checks = [check(name) for name in names]
    return checks or [Check("environment", "environment", "ok", "nothing set that changes a run")]


def check(name: str) -> Check:
    """One variable that is set."""
    value = os.environ[name]
    identity = f"environment.{name}"
    shown = "(set)" if any(word in name for word in SECRET) else repr(value)
    if name.startswith("CUTAWAY_") and name not in READERS:
        meaning = f"no such variable; there are {', '.join(sorted(READERS))}"
        return Check(identity, name, "broken", shown, meaning, f"unset {name}")
    try:
        READERS.get(name, _any_value)()
    except CutawayError as error:
        return Check(identity, name, "broken", shown, first_line(error), f"unset {name}")
    return Check(identity, name, "ok", shown)
