"""What is kept between runs: compiled kernels, libraries of the CPU device, fetched models."""

from __future__ import annotations

import shutil
from pathlib import Path

from bindings.aside import PREFIX, abandoned, aside, is_whole
from bindings.cache_directory import CacheError, cache_directory, cache_root
from bindings.errors import CutawayError
from tools.checks.check import Check, first_line, size

FIX_FOLDER = "export CUTAWAY_CACHE=/a/folder/that/can/be/written"
ROOM_WANTED = 150e6  # what the first run writes, the default model apart
KERNEL_FOLDERS = ("kernels", "cpu")
BUILT_AGAIN = "built again when it is next needed"


def kernel_cache() -> list[Check]:
    """`kernel_cache`: where, writable, room; `kernel_cache.damaged` and `.leftovers` where there are such."""
    try:
        root = cache_root()
        with aside(cache_directory(KERNEL_FOLDERS[0])) as folder:
            (folder / "written").write_bytes(b"x")
    except CutawayError as error:
        return [Check("kernel_cache", "kernel cache", "broken", first_line(error).split("; ")[0], fix=FIX_FOLDER)]
    entries = [entry for top in KERNEL_FOLDERS for entry in entries_of(root / top)]
    nbytes, free = sum(bytes_in(root / top) for top in KERNEL_FOLDERS), shutil.disk_usage(root).free
    found = f"{root}, {len(entries)} entries, {size(nbytes)}, {size(free)} free on the disk"
    facts = {"path": str(root), "entries": len(entries), "bytes": nbytes, "disk_free": free}
    full = free < ROOM_WANTED
    meaning = f"the disk is nearly full: the first run writes {size(ROOM_WANTED)}" if full else ""
    fix = f"rm -r {root}/kernels {root}/cpu    # or: {FIX_FOLDER}" if full else ""
    whole = Check("kernel_cache", "kernel cache", "broken" if full else "ok", found, meaning, fix, facts)
    written_to = (root / "kernels", *(root / "kernels").glob("*/"), root / "cpu")
    return [whole, *damaged(entries, root), *leftovers("kernel_cache", *written_to)]


def entries_of(folder: Path) -> list[Path]:
    """Every entry below `folder`: a folder that holds files, and is not being made just now."""
    holders = {path.parent for path in folder.rglob("*") if path.is_file()} - {folder}
    return sorted(path for path in holders if not any(part.startswith(PREFIX) for part in path.parts))


def bytes_in(folder: Path) -> int:
    """What the files below `folder` take."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except OSError:  # another process removed it meanwhile
            continue
    return total


def damaged(entries: list[Path], root: Path) -> list[Check]:
    """One check for all entries that are not what was written, if there are such."""
    bad = [entry for entry in entries if not is_whole(entry)]
    if not bad:
        return []
    found = f"{len(bad)} of {len(entries)} entries, the first: {bad[0].name}"
    fix = f"rm -r {bad[0]}" if len(bad) == 1 else f"rm -r {root}/kernels {root}/cpu"
    facts = {"paths": [str(path) for path in bad]}
    return [Check("kernel_cache.damaged", "damaged entries", "broken", found, BUILT_AGAIN, fix, facts)]


def leftovers(area: str, *folders: Path) -> list[Check]:
    """One check for what killed runs left in `folders`, if they left anything."""
    left = [path for folder in folders if folder.is_dir() for path in abandoned(folder)]
    if not left:
        return []
    found = f"{len(left)} half-finished, {size(sum(bytes_in(path) for path in left))}"
    meaning = "left by runs that were killed; the next run that writes there removes them"
    facts = {"paths": [str(path) for path in left]}
    return [
        Check(f"{area}.leftovers", "leftovers", "broken", found, meaning, f"rm -r {left[0].parent}/{PREFIX}*", facts)
    ]


def model_cache() -> list[Check]:
    """`model_cache`: the fetched models, and whether the default one is among them."""
    from engine.model_files import DEFAULT_MODEL

    try:
        folder = cache_root() / "models"
    except CacheError as error:
        return [Check("model_cache", "model cache", "broken", first_line(error), fix=FIX_FOLDER)]
    files = sorted(path for path in folder.glob("*") if path.is_file())
    sizes = {path.name: path.stat().st_size for path in files}
    default = Path(DEFAULT_MODEL.member).name
    facts = {"path": str(folder), "models": sizes, "default": default}
    cut = sizes.get(default, DEFAULT_MODEL.member_nbytes) != DEFAULT_MODEL.member_nbytes
    found = ", ".join(f"{name} ({size(nbytes)})" for name, nbytes in sizes.items()) or "no model fetched yet"
    if cut:
        meaning = f"{default} should have {DEFAULT_MODEL.member_nbytes} bytes: the next run fetches it again"
        check = Check("model_cache", "model cache", "broken", found, meaning, f"rm {folder / default}", facts)
    elif default not in sizes:
        meaning = f"the first run fetches {default} ({size(DEFAULT_MODEL.nbytes)})"
        check = Check(
            "model_cache", "model cache", "missing", found, meaning, 'python -m tools.generate "Hello"', facts
        )
    else:
        check = Check("model_cache", "model cache", "ok", f"{folder}: {found}", facts=facts)
    return [check, *leftovers("model_cache", folder)]
