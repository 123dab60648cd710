"""Making an entry of the cache so that nobody ever sees half of it, and clearing away what is left over.

An entry is made in a folder aside, `.part-…`, and renamed whole. Its maker holds a lock on that folder, which the
system drops when the process ends, however it ends. So a folder that nobody holds was left by a run that was killed,
and the next run that makes something beside it removes it. (A lock and no process id: containers that share a home
folder number their processes each for itself.)
"""

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from bindings.cache_directory import CacheError, cache_error

PREFIX = ".part-"
MANIFEST = "whole.json"
# Larger files are known by their size alone: reading a precompiled header would take longer than it saves.
HASHED_BYTES = 4 << 20

# Of each kind of entry these many stay, last used first. Others stay for as long as somebody may still be reading them:
# whoever uses an entry marks it, and reads it within seconds.
KEPT_ENTRIES = 4
IDLE_SECONDS = 3600.0


@contextmanager
def aside(parent: Path) -> Iterator[Path]:
    """A new folder in `parent`, locked while the block runs, and removed with all that was not renamed away.

    Raises CacheError for every OSError of the block: what happens in here is writing to the cache.
    """
    try:
        sweep(parent)
        folder, lock = _locked_folder(parent)
        try:
            yield folder
        finally:
            _remove(folder)
            os.close(lock)
    except BrokenPipeError:  # whoever read the progress went away
        raise
    except OSError as error:
        raise cache_error(parent, error) from error


def _locked_folder(parent: Path) -> tuple[Path, int]:
    """A new folder and the descriptor that holds its lock."""
    while True:  # until a folder was locked before another process took it for a leftover
        folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
        with suppress(FileNotFoundError):
            lock = os.open(folder, os.O_RDONLY)
            if _try_lock(lock) is not False and folder.is_dir():
                return folder, lock
            os.close(lock)


def _try_lock(descriptor: int) -> bool | None:
    """True: locked now; False: somebody holds it; None: this file system has no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _remove(path: Path) -> None:
    try:
        shutil.rmtree(path, ignore_errors=True)
    except KeyboardInterrupt:  # Ctrl-C in the middle of it: finish, then pass it on
        shutil.rmtree(path, ignore_errors=True)
        raise


def abandoned(parent: Path) -> Iterator[Path]:
    """The folders aside in `parent` whose makers live no more, each locked until the next one is asked for."""
    for folder in parent.glob(f"{PREFIX}*"):
        lock = _take(folder)
        if lock is not None:
            try:
                yield folder
            finally:
                os.close(lock)


def _take(folder: Path) -> int | None:
    """The lock of a folder whose maker lives no more; None for one that is being worked in, or that can't be told."""
    try:
        lock = os.open(folder, os.O_RDONLY)
    except OSError:
        return None
    if _try_lock(lock):
        return lock
    os.close(lock)
    return None


def sweep(parent: Path) -> None:
    """Remove the folders aside that killed runs left in `parent`."""
    for folder in abandoned(parent):
        _remove(folder)


def keep(made: Path, entry: Path) -> None:
    """Rename a finished folder to its place. If another process was first, its entry stays."""
    try:
        os.rename(made, entry)
    except OSError:
        if not entry.is_dir():
            raise


def discard(entry: Path) -> None:
    """Remove an entry, renamed first, so that others see all of it or nothing. Raises CacheError when it can't be."""
    with aside(entry.parent) as trash, suppress(FileNotFoundError):  # another process was first
        os.rename(entry, trash / "old")


def seal(folder: Path) -> None:
    """Write down what a finished folder holds, for `is_whole`."""
    (folder / MANIFEST).write_text(json.dumps(_contents(folder)))


def is_whole(folder: Path) -> bool:
    """Whether a sealed folder still holds what it held."""
    try:
        return bool(json.loads((folder / MANIFEST).read_text()) == _contents(folder))
    except (OSError, ValueError):
        return False


def _contents(folder: Path) -> dict[str, list[int | str]]:
    """[bytes, digest] of each file by name; no digest of a large one."""
    files = sorted(path for path in folder.iterdir() if path.name != MANIFEST)
    return {path.name: [path.stat().st_size, _digest(path)] for path in files}


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.stat().st_size <= HASHED_BYTES else ""


def mark_used(entry: Path) -> None:
    """Note that an entry is in use now; `prune` goes by it."""
    with suppress(OSError):  # a cache that can only be read is not pruned either
        os.utime(entry)


def prune(parent: Path, kind: str) -> None:
    """Of the entries `<kind>-…` of `parent`, remove those that are neither among the last used nor in use lately."""
    entries = sorted(((_last_used(path), path) for path in parent.glob(f"{kind}-*")), reverse=True)
    for used, entry in entries[KEPT_ENTRIES:]:
        if time.time() - used > IDLE_SECONDS:
            with suppress(CacheError):
                discard(entry)


def _last_used(entry: Path) -> float:
    try:
        return entry.stat().st_mtime
    except OSError:  # another process was first
        return time.time()
