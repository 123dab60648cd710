"""tools/trace/limits.py: a device is measured once, by another process, and remembered."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from bindings.device import Device
from tools.bench import rates
from tools.trace.limits import limits_of


@pytest.fixture
def empty_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CUTAWAY_CACHE", str(tmp_path))


@pytest.mark.usefixtures("empty_cache")
def test_what_is_remembered_is_told(device: Device, capfd: pytest.CaptureFixture[str]) -> None:
    rates._write(rates._file(device.kind, device.name, device.driver_version), rates.Rates(2e9, 3e9))
    note = {"kind": device.kind, "name": device.name, "driver_version": device.driver_version}
    assert limits_of(note) == {"read_bytes": 2e9, "flops": 3e9}
    assert capfd.readouterr().err == ""


@pytest.mark.usefixtures("empty_cache")
def test_a_device_that_cannot_be_measured_has_no_limits(capfd: pytest.CaptureFixture[str]) -> None:
    assert limits_of({"kind": "no such kind", "name": "x", "driver_version": 1}) is None
    assert "measure the device (once)" in capfd.readouterr().err


@pytest.mark.usefixtures("empty_cache")
def test_a_device_is_not_measured_under_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, str] = {}
    monkeypatch.setattr(subprocess, "run", lambda *_, env, **__: given.update(env))
    for name in ("CUTAWAY_TRACE", "CUTAWAY_CPU_CHECK", "CUTAWAY_CPU_STREAMS", "CUTAWAY_CPU_THREADS"):
        monkeypatch.setenv(name, "1")
    assert limits_of({"kind": "no such kind", "name": "x", "driver_version": 1}) is None
    assert "CUTAWAY_CACHE" in given and {name for name in given if name.startswith("CUTAWAY_CPU")} == {
        "CUTAWAY_CPU_THREADS"
    }
    assert "CUTAWAY_TRACE" not in given
