"""The live table: each call as it comes, in words, with its times and how close it was to the device's limit.

On a terminal, a heading tells where the calls below it belong, and arguments go on under the call. In a file or a pipe
every call is one line, whatever its length, with all that is known of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from bindings.trace import Event
from tools.trace.events import EXPECTED, Limits, Speed, device_us, failure, speed_of
from tools.trace.folding import Fold, Sink, folded
from tools.trace.spelling import arguments, title
from tools.trace.terminal import Screen, wrapped
from tools.trace.units import amount, counted, duration, percent, rate
from tools.trace.unrolled import Unroller

TIMES_FROM = 100  # columns: a narrower terminal shows the time in headings only
INDENT = 8
LABEL_WIDTH = 42
CLOCKS = {
    "cupti": "device times by CUPTI",
    "event pairs": "device times by pairs of events, kernels of graphs launched one by one",
    "CPU device": "device times by the host's clock",
    "none": "no device times",
}

Matches = Callable[[Event], bool]
Explain = Callable[[Event], list[str]]


class Table:
    """The view. `matches` chooses calls; `fold` tells repeats once; `explain` gives sentences to stand under a call."""

    def __init__(
        self, screen: Screen, matches: Matches | None = None, fold: bool = True, explain: Explain | None = None
    ) -> None:
        self._matches, self._unroller = matches, Unroller()
        self._rows = Rows(screen, explain)
        self._sink: Sink = folded(self._rows) if fold else self._rows

    def header(self, header: Mapping[str, Any]) -> None:
        """Say whose calls these are, and what the columns mean."""
        self._rows.header(header)

    def call(self, event: Event) -> None:
        """One call, and the kernels of a graph launch behind it."""
        self._unroller.see(event)
        work = self._unroller.work_of(event) if event["call"] == "cuGraphLaunch" else ()
        for one in (event, *work):
            if self._matches is None or self._matches(one):
                self._sink.call(one)

    def note(self, note: Event) -> None:
        """Steps are told by the labels."""

    def close(self) -> None:
        """What was held back, and no more."""
        self._sink.close()


class Rows:
    """Calls and folds as lines on a screen."""

    def __init__(self, screen: Screen, explain: Explain | None) -> None:
        self._screen, self._explain = screen, explain
        self._limits: Limits | None = None
        self._opening: Mapping[str, Any] | None = None  # the trace's header, until there is something to show below it
        self._heading: str | None = None
        self._timed = screen.width is None or screen.width >= TIMES_FROM

    def header(self, header: Mapping[str, Any]) -> None:
        """Remember device, clock and limits for the first lines."""
        self._limits, self._opening = Limits.of(header), header

    def _open(self, header: Mapping[str, Any]) -> None:
        """Say them, and what the columns mean."""
        self._opening = None
        device = header.get("device") or {}
        clock = CLOCKS.get(header.get("clock", "none"), header.get("clock"))
        words = f"{device.get('name', 'no device')}: {clock}{self._limits_in_words()}"
        self._say(words, "dim", indent=0)
        titles = [f"{'call':>6}", *([f"{'at (s)':>10}"] if self._timed else [])]
        titles += [f"{'host':>7}", f"{'device':>7}", f"{'rate':>12}", f"{'limit':>5}"]
        titles += [f" {'label':{LABEL_WIDTH}} call"] if self._screen.width is None else []
        self._screen.line(self._screen.paint(" ".join(titles), "dim"))

    def _limits_in_words(self) -> str:
        if self._limits is None:
            return ""
        return f"; limits: {rate(self._limits.read_bytes, 'B')} and {rate(self._limits.flops, 'FLOP')}, measured here"

    def call(self, event: Event) -> None:
        """One call."""
        if self._opening is not None:
            self._open(self._opening)
        if self._screen.width is None:
            self._screen.line(self._whole(event))
        else:
            self._head(event)
            self._broken(event, self._screen.width)
        for sentence in self._explain(event) if self._explain else ():
            self._say(sentence, "explain")

    def _head(self, event: Event) -> None:
        """A heading, where these calls belong elsewhere than the ones above."""
        heading = event["label"] or f"outside of steps: {event['site'].rpartition(':')[0]}"
        heading += f", recorded into graph {event['captured']}" if "captured" in event else ""
        if heading == self._heading:
            return
        self._heading = heading
        width, at = self._screen.width or len(heading), f"  (at {event['t_us'] / 1e6:.6f} s)"
        at = "" if self._timed or len(heading) + len(at) > width else at
        self._screen.line(self._screen.paint(heading[:width], "bold") + self._screen.paint(at, "dim"))

    def _figures(self, event: Event) -> str:
        """The columns on the left."""
        speed = speed_of(event, self._limits)
        device = device_us(event)
        cells = [f"{event['n']:>6}" if event["kind"] == "call" else " " * 6]
        if self._timed:
            cells.append(self._screen.paint(f"{event['t_us'] / 1e6:10.6f}", "dim"))
        cells.append(f"{duration(event['host_us']):>7}" if "host_us" in event else " " * 7)
        cells.append(self._screen.paint(f"{duration(device) if device is not None else '':>7}", "time"))
        return " ".join([*cells, _speed_cells(speed)])

    def _title(self, event: Event) -> tuple[str, int]:
        """What was called, and how many columns it takes."""
        call, what = title(event)
        painted = self._screen.paint(call, "call") + (" " + self._screen.paint(what, "kernel") if what else "")
        return painted, len(call) + (len(what) + 1 if what else 0)

    def _broken(self, event: Event, width: int) -> None:
        """One call in as many lines as its arguments take."""
        figures = 52 if self._timed else 41
        painted, length = self._title(event)
        pieces = [f"-> graph {event['captured']}"] if "captured" in event else [*arguments(event, False), _line(event)]
        first, *more = wrapped(pieces, max(width - figures - length - 4, 0), width, INDENT)
        line = f"{self._figures(event)}  {painted}"
        self._screen.line(f"{line}  {self._screen.paint(first, 'dim')}" if first else line)
        for text in more:
            self._screen.line(" " * INDENT + self._screen.paint(text, "dim"))
        if event["result"] != "ok":
            self._screen.line(" " * INDENT + self._result(event))

    def _whole(self, event: Event) -> str:
        """One call in one line, with its label."""
        painted, _ = self._title(event)
        failed = self._result(event)
        captured = [f"[captured into graph {event['captured']}]"] if "captured" in event else []
        words = " ".join([*arguments(event), *captured, _site(event)])
        line = f"{self._figures(event)}  {event['label']:{LABEL_WIDTH}} {painted}  {words}"
        return f"{line}  {failed}" if failed else line

    def _result(self, event: Event) -> str:
        """What a call answered that is not "ok"."""
        if failure(event):
            return self._screen.paint(f"failed: {event['result']}", "error")
        return "" if event["result"] == "ok" else self._screen.paint(f"answers {event['result']}: no more", "dim")

    def fold(self, fold: Fold) -> None:
        """Repeats in one line."""
        failed = fold.result != "ok" and (fold.name, fold.result) not in EXPECTED
        self._say(fold_words(fold), "error" if failed else "fold")

    def _say(self, sentence: str, style: str, indent: int = INDENT) -> None:
        """A sentence under the calls, in as many lines as it takes."""
        width = self._screen.width
        lines = [sentence] if width is None else wrapped(sentence.split(" "), width - indent, width, indent)
        for line in lines:
            self._screen.line(" " * indent + self._screen.paint(line, style))

    def close(self) -> None:
        """Nothing is held back here."""


def _speed_cells(speed: Speed | None) -> str:
    """Rate and fraction of the limit, 12 and 5 columns."""
    if speed is None:
        return " " * 18
    fraction = "" if speed.fraction is None else percent(speed.fraction)
    return f"{rate(speed.per_second, speed.unit):>12} {fraction:>5}"


def _site(event: Event) -> str:
    """The line of Python that asked for it."""
    return f"at {event['site']}"


def _line(event: Event) -> str:
    """The same under a heading, which names the file where there is no label."""
    return _site(event) if event["label"] else f"at line {event['site'].rpartition(':')[2]}"


def fold_words(fold: Fold) -> str:
    """A fold as one line: "layers 1 to 29: the same 10 calls each (x29), host 4.13 ms, device 3.21 ms in all"."""
    sums = [f"host {duration(fold.host_us)}"] if not fold.replayed else []
    sums += [f"device {duration(fold.device_us)}"] if fold.device_us else []
    if fold.what == "calls":
        failed = [] if fold.result == "ok" else [fold.result]
        size = [amount(fold.nbytes)] if fold.nbytes else []
        return f"x{fold.count} more {fold.name}: {', '.join([*failed, *size, *sums])}"
    if fold.what == "graph":
        return f"{fold.name}: the same {counted(fold.calls, 'kernel')} as before, {', '.join(sums) or 'not timed'}"
    same = f"the same {counted(fold.calls, 'kernel' if fold.replayed else 'call')}"
    took = f", {', '.join(sums)}" if sums else ""
    if fold.count == 1:
        return f"{fold.what.removesuffix('s')} {fold.first}: {same} again{took}"
    return f"{fold.what} {fold.first} to {fold.last}: {same} each (x{fold.count}){took}{' in all' if took else ''}"
