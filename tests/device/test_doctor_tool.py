"""The doctor as a person runs it: in a healthy tree, and where something is missing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.tool_runs import write_script
from tools.checks.runner import PROBES


def doctor(repository: Path, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tools.doctor", *options],
        cwd=repository,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )


def report(repository: Path, **environment: str) -> tuple[dict[str, Any], dict[str, dict[str, Any]], int]:
    """(the JSON object, its checks by id, the exit code)."""
    done = doctor(repository, "--json", "--quiet", **environment)
    whole = json.loads(done.stdout)
    assert (done.returncode == 0) is whole["ok"]
    assert "Traceback" not in done.stderr and done.stderr.count("\n") == (0 if whole["ok"] else 1)
    return whole, {check["id"]: check for check in whole["checks"]}, done.returncode


def test_a_healthy_tree(repository: Path, tmp_path: Path) -> None:
    done = doctor(repository, CUTAWAY_CACHE=str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "The main job runs on " in done.stdout and "\x1b" not in done.stdout
    assert "Traceback" not in done.stderr


def test_the_json_is_what_the_help_says(repository: Path, tmp_path: Path) -> None:
    whole, checks, code = report(repository, CUTAWAY_CACHE=str(tmp_path), CUTAWAY_CPU_THREADS="1")
    assert code == 0 and set(whole) == {"schema", "ok", "devices", "checks"} and whole["schema"] == 1
    assert whole["devices"] and set(whole["devices"]) <= {"cuda", "cpu"}
    for check in whole["checks"]:
        assert set(check) == {"id", "name", "state", "found", "meaning", "fix", "facts"}
        assert check["state"] in ("ok", "missing", "broken") and "\n" not in check["found"]
    assert len(checks) == len(whole["checks"]), "ids are unique"
    assert {identity.split(".")[0] for identity in checks} >= set(PROBES)
    described = doctor(repository, "--help").stdout
    for key in (*whole, *whole["checks"][0]):
        assert f'"{key}"' in described


@pytest.mark.cpu_device_only
def test_no_compiler(repository: Path, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    whole, checks, code = report(repository, CUTAWAY_CACHE=str(tmp_path), CXX="", PATH=str(tmp_path / "bin"))
    assert code == 1 and whole["devices"] == []
    assert checks["compiler"]["state"] == "missing" and "g++: not found" in checks["compiler"]["found"]
    assert "pip install ziglang" in checks["compiler"]["fix"]


@pytest.mark.cpu_device_only
@pytest.mark.parametrize("compiler", ["nonexistent", "failing", "lying"])
def test_a_compiler_that_does_not_work(repository: Path, tmp_path: Path, compiler: str) -> None:
    greeting = 'case "$*" in *--version*) echo my compiler 1.0; exit 0;; esac\n'
    write_script(tmp_path / "failing", f"#!/bin/sh\n{greeting}echo 'x.cpp:1: error: no' >&2; exit 1\n")
    write_script(tmp_path / "lying", f"#!/bin/sh\n{greeting}exit 0\n")
    _, checks, code = report(repository, CUTAWAY_CACHE=str(tmp_path / "cache"), CXX=str(tmp_path / compiler))
    check = checks["compiler"]
    assert code == 1 and check["state"] == ("missing" if compiler == "nonexistent" else "broken")
    assert str(tmp_path / compiler) in check["found"] and check["fix"].startswith("unset CXX")


@pytest.mark.cpu_device_only
def test_a_cache_that_cannot_be_written(repository: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    _, checks, code = report(repository, CUTAWAY_CACHE=str(tmp_path / "file"))
    assert code == 1 and checks["kernel_cache"]["state"] == "broken"


@pytest.mark.cpu_device_only
def test_a_package_that_cannot_be_imported(repository: Path, tmp_path: Path) -> None:
    """The doctor itself stands, whatever is missing."""
    for name in ("numpy", "tokenizers"):
        (tmp_path / f"{name}.py").write_text("raise ImportError('libgone.so: cannot open')")
    whole, checks, code = report(repository, PYTHONPATH=str(tmp_path), CUTAWAY_CACHE=str(tmp_path / "cache"))
    assert code == 1 and whole["devices"] == []
    assert checks["package.numpy"]["state"] == checks["packages"]["state"] == "broken"
    assert "libgone.so" in checks["package.numpy"]["meaning"]
    assert checks["package.tokenizers"]["fix"] == "pip install --force-reinstall tokenizers"


# As much of a driver as answers the doctor: that of CUDA 11.4.
OLD_DRIVER = """
#include <cstring>
extern "C" int cuInit(unsigned) { return 0; }
extern "C" int cuDriverGetVersion(int* version) { *version = 11040; return 0; }
extern "C" int cuDeviceGetCount(int* count) { *count = 0; return 0; }
extern "C" int cuGetProcAddress_v2(const char* name, void** found, int, unsigned long long, int* status) {
    *found = nullptr;
    if (!std::strcmp(name, "cuInit")) *found = (void*)cuInit;
    if (!std::strcmp(name, "cuDriverGetVersion")) *found = (void*)cuDriverGetVersion;
    if (!std::strcmp(name, "cuDeviceGetCount")) *found = (void*)cuDeviceGetCount;
    if (status) *status = *found ? 0 : 1;
    return *found ? 0 : 500;
}
extern "C" int cuGetProcAddress(const char* name, void** found, int version, unsigned long long flags) {
    return cuGetProcAddress_v2(name, found, version, flags, nullptr);
}
"""


@pytest.mark.cpu_device_only
def test_a_driver_that_is_too_old(repository: Path, tmp_path: Path) -> None:
    source = tmp_path / "cuda.cpp"
    source.write_text(OLD_DRIVER)
    compiler = os.environ.get("CXX") or shutil.which("g++") or "clang++"
    subprocess.run([compiler, "-shared", "-fPIC", source, "-o", tmp_path / "libcuda.so.1"], check=True)
    whole, checks, code = report(repository, LD_LIBRARY_PATH=str(tmp_path), CUTAWAY_CACHE=str(tmp_path / "cache"))
    assert code == 0 and whole["devices"] == ["cpu"]
    driver = checks["driver"]
    assert driver["state"] == "broken" and driver["facts"]["cuda"] == 11040
    assert "too old for cuda-bindings" in driver["meaning"] and "driver" in driver["fix"]


def test_a_wrong_option(repository: Path) -> None:
    done = doctor(repository, "--jsn")
    assert done.returncode == 2 and done.stderr.startswith("cutaway doctor: error: unrecognized arguments: --jsn")
