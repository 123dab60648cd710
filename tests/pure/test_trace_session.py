"""tools/trace/session.py: calls are handed on in order, each when it is complete, whatever one view does."""

from __future__ import annotations

from typing import Any

import pytest

from bindings.activity import NoClock
from bindings.trace import Event, recorder
from tests.trace_events import HEADER, note
from tools.trace import session as module
from tools.trace.session import Recorded, Session


class LateClock(NoClock):
    """Knows of the calls named "late" only when it is told to."""

    name = "late"

    def __init__(self) -> None:
        self.knows = False

    def is_open(self, event: Event) -> bool:
        return event["call"] == "late" and not self.knows


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> LateClock:
    late = LateClock()
    monkeypatch.setattr(module, "choose_clock", lambda _: late)
    return late


def call(name: str) -> None:
    recorder.after(recorder.before(name, {}), "ok")


def names(recorded: Recorded) -> list[str]:
    return [record.get("call", record["kind"]) for record in recorded.recording.records]


def test_what_came_after_a_call_that_is_not_complete_waits_for_it(clock: LateClock) -> None:
    view = Recorded()
    session = Session("generate", "auto", [view])
    with recorder.listening(session):
        call("first")
        assert names(view) == [] and view.recording.header == {}, "nothing is handed on before the header"
        recorder.note({"kind": "device", "device": HEADER["device"]})
        call("late")
        recorder.note(note(1))
        call("last")
        assert names(view) == ["first"] and view.recording.header["clock"] == "late"
        clock.knows = True
        call("end")
        assert names(view) == ["first", "late", "step", "last", "end"]
    session.close()


@pytest.mark.usefixtures("clock")
def test_what_is_never_known_is_handed_on_at_the_end() -> None:
    view = Recorded()
    session = Session("generate", "auto", [view])
    with recorder.listening(session):
        call("late")
        call("last")
    session.close()
    assert names(view) == ["late", "last"] and view.recording.header["device"] is None


def test_all_views_are_closed_though_one_can_write_no_more() -> None:
    closed: list[str] = []

    class View(Recorded):
        def __init__(self, name: str, failing: bool) -> None:
            super().__init__()
            self._name, self._failing = name, failing

        def call(self, event: Event) -> None:
            self.close()

        def close(self) -> None:
            closed.append(self._name)
            if self._failing:
                raise BrokenPipeError

    views: list[Any] = [View("table", failing=True), View("file", failing=False)]
    session = Session("generate", "off", views)
    with recorder.listening(session):
        call("first")  # held back until the end, since no device was opened
    with pytest.raises(BrokenPipeError):
        session.close()
    assert closed[-2:] == ["table", "file"]
