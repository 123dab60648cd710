"""What the command-line tools share: options, and how every way to end becomes one line and an exit code.

    0    done
    1    it could not be done (CutawayError): a broken model, a failed CUDA call, a full disk ...
    2    the command line is wrong
    130  interrupted with Ctrl-C
    141  the reader of the output went away, as in `| head -1`

Anything else that is raised is a bug of ours, and keeps its traceback.
"""

from __future__ import annotations

import _thread
import argparse
import contextlib
import io
import os
import select
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from bindings.errors import CutawayError

ERROR, USAGE, INTERRUPTED, BROKEN_PIPE = 1, 2, 130, 141

PATIENCE_SECONDS = 1.0
WAITS = "cutaway {}: waiting for a call to come back; Ctrl-C again ends it at once"

Body = Callable[[argparse.Namespace], None]


class UsageError(Exception):
    """A wrong command line: str(error) is one line naming the option and the remedy."""


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that raises UsageError and takes no abbreviations."""

    def __init__(self, tool: str, description: str, examples: str) -> None:
        super().__init__(
            prog=f"python -m tools.{tool}",
            description=description,
            epilog=f"examples:\n{examples}",
            allow_abbrev=False,  # an abbreviation in a script would break when an option is added
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        self.tool = tool

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see --help)")


def add_common_options(parser: Parser) -> None:
    """The options of every tool that opens a device."""
    group = parser.add_argument_group("everywhere")
    group.add_argument(
        "--device",
        choices=("auto", "cuda", "cpu"),
        help="where to run; auto: cuda with an NVIDIA driver, else cpu (default: $CUTAWAY_DEVICE or auto)",
    )
    group.add_argument("--trace", metavar="FILE", help="write every driver call to FILE as JSON lines")
    group.add_argument("--quiet", action="store_true", help="nothing on stderr but errors")
    group.add_argument("--debug", action="store_true", help="show the traceback of an error")


def run(parser: Parser, body: Body, argv: Sequence[str] | None = None) -> int:
    """Parse `argv` (default: the process's), call `body`, and return the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal without UTF-8 shows ? instead of ending the run
    interrupt = Interrupt(parser.tool)
    try:
        arguments = parser.parse_args(argv)
        show_warnings(parser.tool, getattr(arguments, "quiet", False))
        with interrupt, recording(getattr(arguments, "trace", None), [parser.tool, *argv]):
            body(arguments)
        sys.stdout.flush()  # here, so that a reader that went away is noticed inside this try
        return 0
    except BrokenPipeError:
        silence_output()
        return BROKEN_PIPE
    except (Exception, KeyboardInterrupt) as error:
        explained = explain(KeyboardInterrupt() if interrupt.came else error)
        if explained is None:
            raise
        if "--debug" in argv:
            traceback.print_exc()
        line, code = explained
        with contextlib.suppress(BrokenPipeError):
            print(f"cutaway {parser.tool}: {line}", file=sys.stderr)
        return code


def show_warnings(tool: str, quiet: bool) -> None:
    """From now on a warning is one line on stderr, without the line of source that gave it; nothing with `quiet`."""

    def show(message: object, *_: object) -> None:
        if not quiet:
            print(f"cutaway {tool}: warning: {message}", file=sys.stderr)

    warnings.showwarning = show


class Interrupt:
    """Ctrl-C inside the `with`: raises KeyboardInterrupt as Python does, and remembers that it came.

    Foreign code may turn the KeyboardInterrupt into an error of its own (numpy does so while it is imported) or swallow
    it (in a destructor): then it is raised once more. After the first one, Ctrl-C ends the process without a word:
    threads of an interrupted run may take a while to end. So it does where the first one waits: Python hears of it when
    the main thread comes back from foreign code, and a kernel that loops for ever never does. Where interrupts are
    ignored, they stay ignored.
    """

    def __init__(self, tool: str) -> None:
        self.tool = tool
        self.came = False
        self.wakeup = self.wakeup_before = -1
        self.restored: Any = None
        self.hook = sys.unraisablehook

    def __enter__(self) -> Interrupt:
        usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler
        if usual and threading.current_thread() is threading.main_thread():  # no other thread may set it
            self.restored = signal.signal(signal.SIGINT, self._on_signal)
            sys.unraisablehook = self._on_unraisable
            self._listen()
        return self

    def _listen(self) -> None:
        """Have C write each signal to a pipe at once, for a thread that does not wait for foreign code."""
        reader, self.wakeup = os.pipe()
        os.set_blocking(self.wakeup, False)
        self.wakeup_before = signal.set_wakeup_fd(self.wakeup, warn_on_full_buffer=False)
        threading.Thread(target=self._end_what_waits, args=(reader,), name="Ctrl-C", daemon=True).start()

    def _end_what_waits(self, reader: int) -> None:
        """Say that a first Ctrl-C has to wait, and end the process at a second one that would wait as well."""
        interrupts = told = 0
        while True:
            ready, _, _ = select.select([reader], [], [], PATIENCE_SECONDS if interrupts > told else None)
            if ready and not (signals := os.read(reader, 64)):
                break
            interrupts += signals.count(signal.SIGINT) if ready else 0
            if interrupts > 1 and not self.came:
                os._exit(INTERRUPTED)
            if not ready:
                told = interrupts
                if not self.came:
                    print(WAITS.format(self.tool), file=sys.stderr, flush=True)
        os.close(reader)

    def _on_signal(self, number: int, frame: object) -> None:
        self.came = True
        raise KeyboardInterrupt

    def _on_unraisable(self, unraisable: sys.UnraisableHookArgs) -> None:
        if issubclass(unraisable.exc_type, KeyboardInterrupt):
            _thread.interrupt_main()
        else:
            self.hook(unraisable)

    def __exit__(self, *_: object) -> None:
        if self.restored is not None:
            sys.unraisablehook = self.hook
            signal.set_wakeup_fd(self.wakeup_before)
            os.close(self.wakeup)
            signal.signal(signal.SIGINT, signal.SIG_DFL if self.came else self.restored)


def explain(error: BaseException) -> tuple[str, int] | None:
    """The line and the exit code for `error`; None for a bug of ours."""
    if isinstance(error, KeyboardInterrupt):
        return "interrupted", INTERRUPTED
    if isinstance(error, UsageError):
        return f"error: {error}", USAGE
    if isinstance(error, CutawayError):
        return f"error: {error}", ERROR
    if isinstance(error, OSError) and error.strerror:
        where = "" if error.filename is None else f"{error.filename}: "
        return f"error: {where}{error.strerror}", ERROR
    if isinstance(error, MemoryError):
        return "error: out of memory on the host", ERROR
    if isinstance(error, ModuleNotFoundError) and not is_ours(error.name):
        return f"error: the Python package {error.name!r} is missing: run pip install -e . first", ERROR
    return None


def is_ours(module: str | None) -> bool:
    return module is None or module.split(".")[0] in ("bindings", "engine", "tools")


def recording(path: str | None, command: Sequence[str]) -> contextlib.AbstractContextManager[object]:
    """Record every driver call to the file `path` inside the `with`; nothing when `path` is None."""
    if path is None:
        return contextlib.nullcontext()
    from tools.trace.jsonl import written

    return written(Path(path), command)


def silence_output() -> None:
    """Point stdout and stderr at nothing: at exit Python flushes both, which fails on a broken pipe."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # a stream that a test replaced has no descriptor
            os.dup2(nothing, stream.fileno())
    os.close(nothing)
