"""One kernel under the lamp: is it right, and how close is it to the hardware's limit?

python -m tools.microtest rmsnorm

Start at `harness.py`, which runs an operation on a case; `reference/` holds each one's float64 reference and cases.
`examine.py` puts one kernel to the test, `timing.py` times it, `options.py` says what else can be asked for.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from tools import cli
from tools.microtest.options import MODES, make_parser, mode_of

__all__ = ["main", "make_parser"]


def body(arguments: argparse.Namespace) -> None:
    MODES[mode_of(arguments)].load()(arguments)


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(make_parser(), body, argv)
