"""A pytest plugin for runs on a copy: writes to $CUTAWAY_VERDICT how each test ended, and why.

Only a failure in the test itself, by an assertion or by an error of the project's own, shows that the test noticed
the fault: not a copy that does not compile or import.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import bindings
from bindings.errors import CompileError, CutawayError

NOTICED = "noticed"

_ends: dict[str, str] = {}


def _why(error: BaseException) -> str:
    """NOTICED, or the name of the error that ended the test."""
    parts = getattr(error, "exceptions", None)  # what hypothesis raises when several examples fail in several ways
    if parts:
        return next((why for why in map(_why, parts) if why != NOTICED), NOTICED)
    own = isinstance(error, CutawayError) and not isinstance(error, CompileError)
    return NOTICED if own or isinstance(error, (AssertionError, pytest.fail.Exception)) else type(error).__name__


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    report = yield
    if call.excinfo is not None and item.nodeid not in _ends:
        _ends[item.nodeid] = _why(call.excinfo.value) if call.when == "call" else f"an error at {call.when}"
    elif call.when == "teardown":
        _ends.setdefault(item.nodeid, "passed")
    return report


def pytest_sessionfinish(session: pytest.Session) -> None:
    here = Path(bindings.__file__).is_relative_to(Path.cwd())
    assert here, f"the tests ran on {bindings.__file__}, not on the copy"
    Path(os.environ["CUTAWAY_VERDICT"]).write_text(json.dumps(_ends))
