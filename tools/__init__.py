"""What a person runs: `python -m tools.generate` and its siblings."""

import sys
from types import TracebackType


def _end_quietly(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Ctrl-C before `cli.run` has begun, or after it has ended, is no bug: one line instead of a traceback."""
    if issubclass(kind, KeyboardInterrupt):
        print("cutaway: interrupted", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


# Here, since `python -m` imports this file before all others. Python then ends by SIGINT itself: 130 in a shell.
sys.excepthook = _end_quietly
