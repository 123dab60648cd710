"""Tests that can fail: each mutant must turn the test that it names red, and the copy without it leaves it green.

Runs of pytest on copies of the project, as many at a time as there are processors. `-k NAME` runs one mutant alone.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from bindings.cache_directory import cache_directory
from engine import lab_ops, ops
from tests.mutants import bindings, cpu_device, engine, kernels, ladders, microtest, trace
from tests.mutants.mutant import Mutant, make_copy
from tests.mutants.verdict import NOTICED
from tests.source_tree import REPOSITORY

ROOMS = (kernels, ladders, cpu_device, bindings, engine, microtest, trace)
MUTANTS = [mutant for room in ROOMS for mutant in room.MUTANTS]
TIMEOUT = 240  # seconds; what hangs has not failed
WORKERS = os.cpu_count() or 1


@dataclass(frozen=True)
class Outcome:
    """How a run of pytest on a copy ended: its exit code, what became of each test, and what it printed."""

    exit_code: int
    ends: dict[str, str]
    text: str


class Runs:
    """The runs that the selected mutants need: the tests that they name on a true copy, then each mutant."""

    def __init__(self, mutants: list[Mutant], folder: Path) -> None:
        self._folder = folder
        self._cache = _linked_cache(folder / "cache")
        self._pool = ThreadPoolExecutor(WORKERS)
        tests = sorted({mutant.test for mutant in mutants})
        batches = [tests[start::WORKERS] for start in range(min(WORKERS, len(tests)))]
        self._true: dict[str, Future[Outcome]] = {}
        for number, batch in enumerate(batches):
            run = self._pool.submit(self._run, f"true-{number}", None, batch)
            self._true |= dict.fromkeys(batch, run)
        self._wrong = {mutant: self._pool.submit(self._run, mutant.name, mutant, [mutant.test]) for mutant in mutants}

    def of(self, mutant: Mutant) -> tuple[Outcome, Outcome]:
        """The outcomes without and with the mutant's fault."""
        return self._true[mutant.test].result(), self._wrong[mutant].result()

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)
        shutil.rmtree(self._cache)

    def _run(self, name: str, mutant: Mutant | None, tests: list[str]) -> Outcome:
        copy = self._folder / name
        make_copy(copy, mutant)
        verdict = self._folder / f"{name}.json"
        options = ["-p", "tests.mutants.verdict", "-p", "no:cacheprovider", "-q", "--tb=short", "--device", "cpu"]
        environment = {
            **os.environ,
            "CI": "true",  # examples of hypothesis are the same at every run
            "CUTAWAY_CACHE": str(self._cache),
            "CUTAWAY_CPU_THREADS": "1",
            "CUTAWAY_VERDICT": str(verdict),
            "PYTEST_ADDOPTS": "",
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        }
        run = subprocess.run(
            [sys.executable, "-m", "pytest", *options, *tests],
            cwd=copy,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=TIMEOUT * (1 if mutant else 4),
        )
        shutil.rmtree(copy)
        ends = json.loads(verdict.read_text()) if verdict.is_file() else {}
        return Outcome(run.returncode, ends, run.stdout)


def _linked_cache(folder: Path) -> Path:
    """A cache with links to all that is compiled already; what mutants leave in it is thrown away."""
    for part in (Path("cpu"), Path("kernels", "cpu")):
        (folder / part).mkdir(parents=True)
        for entry in cache_directory(*part.parts).iterdir():
            if not entry.name.startswith("."):
                (folder / part / entry.name).symlink_to(entry)
    return folder


@pytest.fixture(scope="module")
def runs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    items = (item for item in request.session.items if getattr(item, "module", None) is request.module)
    chosen = [item.callspec.params["mutant"] for item in items if hasattr(item, "callspec")]
    started = Runs(chosen, tmp_path_factory.mktemp("mutants"))
    yield started
    started.close()


@pytest.mark.cpu_device_only
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_turns_its_test_red(mutant: Mutant, runs: Runs) -> None:
    true, wrong = runs.of(mutant)
    assert true.ends.get(mutant.test) == "passed", f"{mutant.test} fails without any fault:\n{true.text}"
    end = wrong.ends.get(mutant.test, "no such test")
    assert end != "passed", f"{mutant.test} passes though {mutant.file} is wrong: {mutant.breaks}"
    assert (end, wrong.exit_code) == (NOTICED, pytest.ExitCode.TESTS_FAILED), f"for another reason:\n{wrong.text}"


def test_a_mutants_text_is_in_its_file_once() -> None:
    for mutant in MUTANTS:
        changed = mutant.text((REPOSITORY / mutant.file).read_text(encoding="utf-8"))
        assert mutant.new in changed and mutant.old != mutant.new
    assert max(Counter(mutant.name for mutant in MUTANTS).values()) == 1


def test_a_text_that_is_not_there_once_is_refused() -> None:
    mutant = Mutant("m", "f", "a", "b", "", "")
    assert mutant.text("xax") == "xbx"
    for text in ("x", "aa"):
        with pytest.raises(ValueError, match="not once"):
            mutant.text(text)


def _tested(op_name: str) -> int:
    """How many mutants of cuda_src are noticed by a case of this operation."""
    return sum(f"[{op_name}-" in mutant.test and mutant.file.startswith("cuda_src/") for mutant in MUTANTS)


def test_every_room_has_its_mutants() -> None:
    """Two for each kernel, one for each rung of a ladder and each header of the kernels, ten for the CPU device."""
    for name in ops.ALL:
        assert _tested(name) >= 2, f"kernel {name} has {_tested(name)} mutants"
    for name in lab_ops.ALL:
        assert _tested(name) >= 1, f"rung {name} has no mutant"
    files = Counter(mutant.file for mutant in MUTANTS)
    for header in ("reduce", "paged_kv", "philox", "argmax"):
        assert files[f"cuda_src/include/{header}.cuh"] >= 1, header
    assert sum(count for file, count in files.items() if file.startswith("bindings/cpu/")) >= 10
