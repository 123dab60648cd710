"""What every test shares: the device under test, and the rule that a skip needs a known reason."""

from __future__ import annotations

import argparse
import functools
import importlib.util
import os
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

from tests.skips import REASONS, allowed

if TYPE_CHECKING:
    from bindings.device import Device

REPOSITORY = Path(__file__).resolve().parent.parent
DEVICES = ("auto", "cuda", "cpu")
SKIPS: pytest.StashKey[Counter[str]] = pytest.StashKey()

# No deadline: the first example of a kernel compiles it, the others take milliseconds.
hypothesis.settings.register_profile("cutaway", deadline=None, derandomize="CI" in os.environ)
hypothesis.settings.load_profile("cutaway")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--device",
        choices=DEVICES,
        default=os.environ.get("CUTAWAY_DEVICE", "auto"),
        help="where kernels run; auto: cuda with an NVIDIA driver, else cpu (default: CUTAWAY_DEVICE, auto)",
    )
    parser.addoption(
        "--schedule-seeds",
        type=at_least_one,
        default=1,
        metavar="N",
        help="seeds that the CPU device's tests try for orders of threads and streams; more hunt longer (default: 1)",
    )
    parser.addoption(
        "--soak-requests",
        type=at_least_one,
        default=1_500,
        metavar="N",
        help="random requests that tests/device/test_soak.py runs (default: 1500)",
    )


def at_least_one(text: str) -> int:
    """A count from the command line."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number from 1 on")
    return int(text)


def pytest_configure(config: pytest.Config) -> None:
    chosen = config.getoption("--device")
    if chosen not in DEVICES:  # argparse does not check a default against the choices
        raise pytest.UsageError(f"CUTAWAY_DEVICE={chosen!r}: expected one of {', '.join(DEVICES)}")
    if chosen != "auto":
        os.environ["CUTAWAY_DEVICE"] = chosen  # for the tools that tests start as subprocesses
    config.stash[SKIPS] = Counter()
    for marker, reason in REASONS.items():
        config.addinivalue_line("markers", f"{marker}: skipped elsewhere with the reason '{reason}'")


def device_kind(config: pytest.Config) -> str:
    """ "cuda" or "cpu": what --device comes to on this machine."""
    chosen: str = config.getoption("--device")
    if chosen != "auto":
        return chosen
    from bindings import backend  # late: tests/pure runs without choosing a device

    return backend.select("auto").kind


def missing_need(marker: str, config: pytest.Config) -> bool:
    """Whether this machine lacks what `marker` asks for."""
    if marker == "needs_gpu":
        return device_kind(config) != "cuda"
    if marker == "cpu_device_only":
        return device_kind(config) != "cpu"
    if marker == "needs_nvrtc":
        from bindings.errors import DeviceError
        from bindings.toolkit import load_library

        try:
            load_library("nvrtc")
        except DeviceError:
            return True
        return False
    if marker == "needs_cupti":
        return importlib.util.find_spec("cupti") is None
    if marker == "needs_chromium":
        return importlib.util.find_spec("playwright") is None or find_chromium() is None
    if marker == "needs_mount":
        return not can_mount()
    raise AssertionError(f"no rule for marker {marker}")


def find_chromium() -> str | None:
    """The browser that the tests of pages drive: $CUTAWAY_CHROMIUM, else one of the usual names."""
    names = (os.environ.get("CUTAWAY_CHROMIUM", ""), "chromium", "chromium-browser", "google-chrome")
    return next((found for name in names if name and (found := shutil.which(name))), None)


@functools.cache
def can_mount() -> bool:
    """Whether a process here may have a small disk of its own."""
    unshare = shutil.which("unshare")
    command = [unshare or "", "--user", "--map-root-user", "--mount", "mount", "-t", "tmpfs", "none", "/tmp"]
    return unshare is not None and subprocess.run(command, capture_output=True, check=False).returncode == 0


def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker, reason in REASONS.items():
        if item.get_closest_marker(marker) and missing_need(marker, item.config):
            pytest.skip(reason)


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> Device:
    """The device of the whole session, chosen by --device; a process has one backend."""
    from bindings.device import Device

    return Device.open(request.config.getoption("--device"))


@pytest.fixture(scope="session")
def schedule_seeds(request: pytest.FixtureRequest) -> range:
    """The seeds to hunt with: as many as --schedule-seeds says."""
    return range(request.config.getoption("--schedule-seeds"))


@pytest.fixture(scope="session")
def soak_requests(request: pytest.FixtureRequest) -> int:
    """How many requests the soak runs: --soak-requests."""
    count: int = request.config.getoption("--soak-requests")
    return count


@pytest.fixture
def any_schedule() -> Iterator[None]:
    """Gives the CPU device its default order of threads, and its eager streams, back."""
    from bindings.cpu import driver

    yield
    driver.set_streams("eager")
    driver.set_schedule("ascending")


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return REPOSITORY


def skip_reason(report: pytest.TestReport | pytest.CollectReport) -> str | None:
    """The reason of a skipped report; None for one that ran or is an expected failure."""
    if not report.skipped or hasattr(report, "wasxfail"):
        return None
    return str(report.longrepr[2]) if isinstance(report.longrepr, tuple) else str(report.longrepr)


class SkipCounter:
    """Counts skips by reason as reports come in (the report hooks are not given the config)."""

    def __init__(self, counts: Counter[str]) -> None:
        self.counts = counts

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.count(skip_reason(report))

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        self.count(skip_reason(report))

    def count(self, reason: str | None) -> None:
        if reason is not None:
            self.counts[reason.removeprefix("Skipped: ")] += 1


@pytest.hookimpl(tryfirst=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    session.config.pluginmanager.register(SkipCounter(session.config.stash[SKIPS]))


@pytest.hookimpl(wrapper=True)
def pytest_sessionfinish(session: pytest.Session) -> Iterator[None]:
    # Before the wrapped hooks: the terminal reporter prints its summary and closing line from inside them.
    if any(not allowed(reason) for reason in session.config.stash[SKIPS]):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
    yield


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for reason, count in sorted(config.stash[SKIPS].items()):
        if allowed(reason):
            terminalreporter.write_line(f"skipped {count}: {reason}")
        else:
            terminalreporter.write_line(
                f"FAILED: {count} skipped for a reason not in tests/skips.py: {reason}", red=True
            )
