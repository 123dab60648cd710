"""Entries of the cache: whole or not there, cleared away after a killed run, and not piling up for ever."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bindings import aside as module
from bindings.aside import (
    KEPT_ENTRIES,
    abandoned,
    aside,
    discard,
    is_whole,
    keep,
    mark_used,
    prune,
    seal,
    sweep,
)
from bindings.cache_directory import CacheError


def make(parent: Path, name: str, content: bytes = b"content") -> Path:
    """A sealed entry, made as the cache makes one."""
    with aside(parent) as folder:
        made = folder / "entry"
        made.mkdir()
        (made / "file").write_bytes(content)
        seal(made)
        keep(made, parent / name)
    return parent / name


def test_an_entry_appears_whole_and_alone(tmp_path: Path) -> None:
    entry = make(tmp_path, "entry")
    assert (entry / "file").read_bytes() == b"content"
    assert list(tmp_path.iterdir()) == [entry] and is_whole(entry)


def test_the_first_of_two_entries_stays(tmp_path: Path) -> None:
    make(tmp_path, "entry", b"first")
    assert (make(tmp_path, "entry", b"second") / "file").read_bytes() == b"first"
    assert [path.name for path in tmp_path.iterdir()] == ["entry"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_nothing_stays_of_what_failed(tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error), aside(tmp_path) as folder:
        (folder / "half").write_bytes(b"x")
        raise error
    assert list(tmp_path.iterdir()) == []


def test_an_error_of_the_disk_names_folder_and_remedy(tmp_path: Path) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    line = rf"cannot write to {tmp_path}: No space left.*; make room.*CUTAWAY_CACHE"
    with pytest.raises(CacheError, match=line), aside(tmp_path):
        os.write(full, b"x")
    os.close(full)
    with pytest.raises(CacheError, match=r"cannot write to .*/none: No such file"), aside(tmp_path / "none"):
        pass


@pytest.mark.parametrize(
    "damage",
    [
        lambda entry: (entry / "file").write_bytes(b"conten"),
        lambda entry: (entry / "file").write_bytes(b"CONTENT"),
        lambda entry: (entry / "file").unlink(),
        lambda entry: (entry / "stranger").touch(),
        lambda entry: (entry / module.MANIFEST).unlink(),
        lambda entry: (entry / module.MANIFEST).write_text("{"),
    ],
    ids=["cut", "changed", "lost", "more", "no manifest", "broken manifest"],
)
def test_damage_shows(tmp_path: Path, damage: Callable[[Path], object]) -> None:
    entry = make(tmp_path, "entry")
    damage(entry)
    assert not is_whole(entry)
    discard(entry)
    discard(entry)  # another process may have been first
    assert list(tmp_path.iterdir()) == []


# Leftovers

HOLD = """
import sys, time
from pathlib import Path
from bindings.aside import aside
with aside(Path(sys.argv[1])) as folder:
    (folder / "half").touch()
    print(folder, flush=True)
    time.sleep(60)
"""


def test_what_a_killed_process_left_is_removed_and_what_a_living_one_holds_is_not(
    tmp_path: Path, repository: Path
) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    holders = [subprocess.Popen(command, cwd=repository, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    folders = [Path(holder.stdout.readline().strip()) for holder in holders if holder.stdout is not None]
    sweep(tmp_path)
    assert list(abandoned(tmp_path)) == [] and all((folder / "half").exists() for folder in folders)
    holders[0].kill()
    holders[0].communicate()
    assert list(abandoned(tmp_path)) == [folders[0]]
    with aside(tmp_path) as mine:
        assert set(tmp_path.iterdir()) == {mine, folders[1]}
    holders[1].kill()
    holders[1].communicate()
    sweep(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_threads_that_make_entries_do_not_sweep_each_other(tmp_path: Path) -> None:
    failed: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for turn in range(20):
                make(tmp_path, f"entry-{number}-{turn}")
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == [] and len(list(tmp_path.iterdir())) == 80


def test_a_folder_that_is_being_removed_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between making a folder and locking it, a sweep may come: then another folder is made."""
    mkdtemp = module.tempfile.mkdtemp
    swept: list[str] = []

    def make_and_lose(**keywords: Any) -> str:
        folder: str = mkdtemp(**keywords)
        if not swept:
            swept.append(folder)
            sweep(tmp_path)
        return folder

    monkeypatch.setattr(module.tempfile, "mkdtemp", make_and_lose)
    with aside(tmp_path) as folder:
        assert folder.is_dir() and str(folder) != swept[0]


# Bounded


def aged(entry: Path, seconds: float) -> Path:
    stamp = time.time() - seconds
    os.utime(entry, (stamp, stamp))
    return entry


def test_entries_that_nobody_used_lately_are_dropped_beyond_the_last_few(tmp_path: Path) -> None:
    entries = [aged(make(tmp_path, f"simt.h-{i}"), 7200 + i) for i in range(KEPT_ENTRIES + 3)]
    others = [aged(make(tmp_path, f"gemm-{i}"), 9999) for i in range(2)]
    mark_used(entries[-1])
    prune(tmp_path, "simt.h")
    kept = {entries[-1], *entries[: KEPT_ENTRIES - 1]}
    assert set(tmp_path.iterdir()) == kept | set(others)


def test_entries_in_use_stay_however_many_there_are(tmp_path: Path) -> None:
    entries = {aged(make(tmp_path, f"simt-{i}"), 60) for i in range(KEPT_ENTRIES + 3)}
    prune(tmp_path, "simt")
    assert set(tmp_path.iterdir()) == entries
