"""The views that the options ask for, as one view."""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TextIO

from bindings.trace import Event
from bindings.trace_file import written_aside
from tools.trace import summary_text
from tools.trace.explanations import Explainer
from tools.trace.filters import Filter, ranges
from tools.trace.jsonl import JsonLines
from tools.trace.kv_pages import PagesView
from tools.trace.page import write_page
from tools.trace.perfetto import Perfetto
from tools.trace.session import Recorded, View
from tools.trace.summary import Summary
from tools.trace.table import Table
from tools.trace.terminal import Screen


class Page(Recorded):
    """The view that writes everything as an HTML page when the trace ends."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def close(self) -> None:
        """Write it. Raises CutawayError where that can't be done."""
        write_page(self.recording, self._path)


class Views:
    """Hands everything on to each view; at the end tells the summary, and what a filter looked for in vain.

    Raises UsageError for values of options that mean nothing.
    """

    def __init__(self, arguments: argparse.Namespace, stdout: TextIO) -> None:
        self._arguments = arguments
        self._stdout = stdout
        self._screen = Screen(stdout, arguments.color, arguments.wide)
        self._filter = Filter(arguments.calls, arguments.layer, arguments.step, arguments.kernel)
        self._summary, self._files = Summary(), ExitStack()
        on_screen = self._on_screen()
        self._views: list[View] = [self._summary, *self._in_files(), *on_screen]  # whose reader may go away

    def _on_screen(self) -> list[View]:
        chosen = self._arguments
        if chosen.pages:
            steps = ranges(chosen.step, "--step") if chosen.step else None
            return [PagesView(self._screen, steps, not chosen.no_fold)]
        if chosen.summary_only or chosen.json or chosen.pause:
            return []
        matches = self._filter.matches if self._filter.criteria else None
        return [Table(self._screen, matches, not chosen.no_fold, Explainer() if chosen.explain else None)]

    def _in_files(self) -> list[View]:
        chosen, views = self._arguments, list[View]()
        if chosen.perfetto:
            views.append(Perfetto(chosen.perfetto))
        if chosen.html:
            views.append(Page(chosen.html))
        if chosen.jsonl:
            views.append(JsonLines(self._files.enter_context(written_aside(chosen.jsonl))))
        return views

    def header(self, header: Event) -> None:
        """Comes first."""
        for view in self._views:
            view.header(header)

    def call(self, event: Event) -> None:
        """A call that is complete."""
        for view in self._views:
            view.call(event)

    def note(self, note: Event) -> None:
        """A step of the engine."""
        for view in self._views:
            view.note(note)

    def close(self) -> None:
        """The trace has ended. Raises CutawayError for a file that can't be written."""
        with self._files as files:
            for view in reversed(self._views):
                files.callback(view.close)
        self._sum_up()

    def _sum_up(self) -> None:
        if self._arguments.json:
            self._stdout.write(json.dumps(self._summary.as_json()) + "\n")
        elif not (self._arguments.pages or self._arguments.pause) and self._summary.calls:
            filtered, whole = bool(self._filter.criteria), self._arguments.summary_only
            summary_text.show(self._summary, self._screen, filtered, whole)
        for line in self._filter.complaint() if self._summary.calls else ["no driver call was made"]:
            print(f"cutaway trace: {line}", file=sys.stderr)
