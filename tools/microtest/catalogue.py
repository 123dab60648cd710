"""What can be tested: the kernels of engine/ops.py, the rungs of the ladders, and the matrix product."""

from __future__ import annotations

import difflib
import re
from pathlib import Path

from engine import lab_attention_ops, lab_ops, ops
from engine.spec import Op
from tools.cli import UsageError
from tools.microtest.harness import Case, cases_of
from tools.microtest.products import GEMM, Product

KERNELS: dict[str, Op] = {**ops.ALL, **lab_ops.ALL, GEMM.name: GEMM}
LADDERS = {
    "attention": lab_attention_ops.ATTENTION_LADDER,
    "rmsnorm": lab_ops.RMSNORM_LADDER,
    "softmax": lab_ops.SOFTMAX_LADDER,
}

# Cases that a rung is there to fail: this one subtracts no maximum, so exponentials overflow, or all underflow to 0.
BEYOND = {("softmax_v1_naive", "shifted1000"), ("softmax_v1_naive", "shifted-1000")}

_ENTRY = re.compile(r'extern\s+"C"\s+__global__\s+void\s+(?:__launch_bounds__\s*\([^)]*\)\s*)?(\w+)\s*\(')


def cases_for(op: Op) -> list[Case]:
    """The cases that `op` must get right."""
    return [case for case in cases_of(op) if (op.name, case.name) not in BEYOND]


def find(name: str) -> Op:
    """The kernel of this name. Raises UsageError with the names nearest to it."""
    if name in KERNELS:
        return KERNELS[name]
    close = difflib.get_close_matches(name, KERNELS, n=3)
    meant = f"did you mean {' or '.join(close)}?" if close else "python -m tools.microtest lists them"
    raise UsageError(f"there is no kernel {name!r}: {meant}")


def from_file(path: Path, name: str | None) -> Op:
    """The kernel in a `.cu` of somebody's own, under the spec of `name`, or of the entry that the file has.

    Rungs of a ladder share an entry, but not the threads of a block: a copy is known by the name that its file keeps.

    Raises UsageError for a file that can't be read, or that has no entry of the kernel asked for.
    """
    entries = _entries(path)
    op = find(name) if name else _meant(path, entries)
    if isinstance(op, Product):
        raise UsageError("--file: a matrix product is cuBLAS's, no kernel of ours")
    if op is None or op.entry not in entries:
        wanted = f'extern "C" __global__ void {op.entry}(...)' if op else "an entry named as a kernel of the list"
        raise UsageError(f"--file {path}: it must have {wanted}; it has {', '.join(entries) or 'no entry'}")
    return op.variant(source=str(path.resolve()))


def others_in(path: Path, op: Op) -> list[str]:
    """The names of the shipped kernels beside `op` that a file may be a version of."""
    entries = _entries(path)
    return [name for name, other in KERNELS.items() if other.entry in entries and name != op.name]


def _meant(path: Path, entries: list[str]) -> Op | None:
    """The shipped kernel that a file of this name is a copy of; else the first that has one of its entries."""
    alike = [op for op in KERNELS.values() if op.entry in entries]
    return next((op for op in alike if Path(op.source).stem in path.stem), alike[0] if alike else None)


def _entries(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--file {path}: {getattr(error, 'strerror', None) or 'not a text file'}") from error
    return _ENTRY.findall(text)
