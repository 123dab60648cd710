"""A mutant: one deliberate fault in a copy of the project, and the test that must turn red for it.

A copy is made of what tests need. The CPU device's files are links, but for those that the mutant changes and those
that find them by their own place: a link's place is the original, where everything is compiled already.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from tests.source_tree import REPOSITORY

COPIED = ("bindings", "cuda_src", "engine", "tools", "tests")
CPU_DEVICE = Path("bindings", "cpu")

# What lies in bindings/cpu -> the module beside it that looks for it where the module itself lies.
FINDERS = {
    "simt": "kernel_source.py",
    "runtime": "executor.py",
    "access_checks": "executor.py",
    "recorder": "inspection.py",
    "gemm.cpp": "gemm.py",
    "gemm_elements.h": "gemm.py",
    "gemm_tiles.h": "gemm.py",
}


@dataclass(frozen=True)
class Mutant:
    """`old`, which `file` holds exactly once, becomes `new`; that breaks what `breaks` says, and `test` must notice.

    `file` is relative to the repository, `test` a pytest node id.
    """

    name: str
    file: str
    old: str
    new: str
    breaks: str
    test: str

    def text(self, original: str) -> str:
        """The changed text of `file`. Raises ValueError if `old` is not in it exactly once."""
        count = original.count(self.old)
        if count != 1:
            raise ValueError(f"{self.name}: its text is {count} times in {self.file}, not once:\n{self.old}")
        return original.replace(self.old, self.new)


def make_copy(target: Path, mutant: Mutant | None = None) -> None:
    """Copy the project to the new folder `target`, with the mutant's fault in it."""
    target.mkdir()
    for room in COPIED:
        shutil.copytree(REPOSITORY / room, target / room, ignore=_cpu_device)
    shutil.copy2(REPOSITORY / "pyproject.toml", target)
    own = Path(mutant.file) if mutant else Path()
    _link_cpu_device(target, own)
    if mutant:
        text = mutant.text((REPOSITORY / own).read_text(encoding="utf-8"))
        for compiled in (target / own.parent / "__pycache__").glob(f"{own.stem}.*"):
            compiled.unlink()
        (target / own).unlink()
        (target / own).write_text(text, encoding="utf-8")


def _cpu_device(folder: str, names: list[str]) -> list[str]:
    return [CPU_DEVICE.name] if Path(folder) == REPOSITORY / CPU_DEVICE.parent else []


def _link_cpu_device(target: Path, own: Path) -> None:
    """Links to every entry of bindings/cpu, but copies of what leads to the file `own`."""
    (target / CPU_DEVICE).mkdir()
    copied = set()
    if own.is_relative_to(CPU_DEVICE):
        entry = own.relative_to(CPU_DEVICE).parts[0]
        copied = {entry, FINDERS.get(entry, entry)}
    for source in (REPOSITORY / CPU_DEVICE).iterdir():
        place = target / CPU_DEVICE / source.name
        if source.name not in copied:
            if source.name != "__pycache__":
                place.symlink_to(source)
        elif source.is_dir():
            shutil.copytree(source, place)
        else:
            shutil.copy2(source, place)
