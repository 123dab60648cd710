"""The doctor's probes and its table, each on an environment made for it."""

from __future__ import annotations

import importlib
import importlib.metadata
import io
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from bindings import probe, toolkit
from bindings.aside import aside, keep, seal
from bindings.errors import CompileError, CudaError, DeviceError
from tools import doctor
from tools.checks import caches, host, nvidia, packages, runner, table, variables
from tools.checks.check import NEEDS, Check, size, usable_devices
from tools.checks.packages import Requirement, check_package, parse, satisfies

WELL = [Check(identity, identity, "ok", "there") for identity in dict.fromkeys(sum(NEEDS.values(), ()))]


def only(checks: list[Check], identity: str) -> Check:
    (found,) = (check for check in checks if check.id == identity)
    return found


# What may run


def test_every_need_is_answered_by_a_probe() -> None:
    """A misspelt id would make a device unusable for ever."""
    areas = {"python", "host_headers", *runner.PROBES}
    assert {need for needs in NEEDS.values() for need in needs} <= areas
    assert set(areas) <= {area for section in table.SECTIONS.values() for area in section}


@pytest.mark.parametrize(
    ("broken", "devices"),
    [("", ["cuda", "cpu"]), ("nvrtc", ["cpu"]), ("compiler", ["cuda"]), ("kernel_cache", []), ("packages", [])],
)
def test_a_device_is_usable_when_all_it_needs_is_well(broken: str, devices: list[str]) -> None:
    checks = [Check(c.id, c.name, "missing", "") if c.id == broken else c for c in WELL]
    assert usable_devices(checks) == devices
    assert usable_devices([check for check in WELL if check.id != broken]) == devices, "unknown counts as missing"


# Packages


@pytest.mark.parametrize(
    ("text", "requirement"),
    [
        ("numpy>=1.26", Requirement("numpy", ">=1.26")),
        ("cuda-bindings<14,>=13.0", Requirement("cuda-bindings", "<14,>=13.0")),
        ('nvidia-cublas<14,>=13.0; extra == "cuda"', Requirement("nvidia-cublas", "<14,>=13.0", "cuda")),
        ("tqdm (>=4.60) ; extra == 'x'", Requirement("tqdm", ">=4.60", "x")),
        ("gguf", Requirement("gguf", "")),
    ],
)
def test_requirements_are_read(text: str, requirement: Requirement) -> None:
    assert parse(text) == requirement


@pytest.mark.parametrize(
    ("version", "wanted", "fits"),
    [
        ("13.5.0", ">=13.0,<14", True),
        ("14.0", ">=13.0,<14", False),
        ("14", "<14.0", False),
        ("12.9.1", ">=13.0,<14", False),
        ("1.26", ">=1.26.0", True),
        ("2.0.0rc1", ">=1.26", True),
        ("anything", "", True),
    ],
)
def test_versions_are_compared_by_their_numbers(version: str, wanted: str, fits: bool) -> None:
    assert satisfies(version, wanted) is fits


def test_the_project_names_its_own_requirements() -> None:
    found = packages.requirements()  # installed metadata, or pyproject.toml
    assert "numpy" in {each.package for each in found if not each.extra}
    assert "nvidia-cublas" in {each.package for each in found if each.extra == "cuda"}


def test_a_package_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    check = check_package(Requirement("no-such-package", ">=1"))
    assert (check.state, check.found, check.fix) == ("missing", "not installed", "pip install -e .")
    extra = check_package(Requirement("no-such-package", ">=1", "cuda"))
    assert "optional" in extra.found and extra.fix == 'pip install -e ".[cuda]"'


def test_a_package_of_another_version_and_one_that_cannot_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "1.0")
    old = check_package(Requirement("numpy", ">=1.26"))
    assert old.state == "broken" and old.fix == 'pip install "numpy>=1.26"'

    def refuse(name: str) -> None:
        raise ImportError("libfoo.so: cannot open\nsecond line")

    monkeypatch.setattr(importlib, "import_module", refuse)
    broken = check_package(Requirement("numpy", ""))
    assert broken.state == "broken" and broken.meaning == "cannot be imported: libfoo.so: cannot open"


# NVIDIA


def raising(error: Exception) -> Any:
    def function(*_: object) -> None:
        raise error

    return function


def test_no_driver_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "driver_version", raising(DeviceError("not found")))
    monkeypatch.setattr(nvidia, "kernel_module_version", lambda: "")
    (check,) = nvidia.driver()
    assert check.state == "missing" and "CPU device" in check.meaning and not check.fix


@pytest.mark.parametrize(("version", "state"), [(11040, "broken"), (12090, "broken"), (13000, "ok"), (14000, "ok")])
def test_a_driver_is_held_against_the_installed_bindings(
    monkeypatch: pytest.MonkeyPatch, version: int, state: str
) -> None:
    monkeypatch.setattr(probe, "driver_version", lambda: version)
    monkeypatch.setattr(toolkit, "bindings_version", lambda: "13.5.0")
    (check,) = nvidia.driver()
    assert check.state == state and check.facts["cuda"] == version
    assert (state == "ok") or ("too old for cuda-bindings 13.5.0" in check.meaning and "driver" in check.fix)


@pytest.mark.parametrize(("version", "extra"), [("12.9.10", "cuda12"), ("13.5.0", "cuda")])
def test_the_extra_of_the_other_cuda_version_is_not_missed(
    monkeypatch: pytest.MonkeyPatch, version: str, extra: str
) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda name: version)
    assert packages.optional_extras() == (extra, "compiler")


def test_headers_that_only_the_cpu_device_reads_do_not_stop_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    crt = Requirement("nvidia-cuda-crt", ">=13.0,<14")
    missing = Check("package.nvidia-cuda-crt", "nvidia-cuda-crt", "missing", "not installed")
    monkeypatch.setattr(packages, "requirements", lambda: [crt])
    monkeypatch.setattr(packages, "check_package", lambda wanted: missing)
    summary = next(check for check in packages.probe() if check.id == "packages")
    assert summary.state == "ok"


def test_a_kernel_module_without_its_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container that was started without --gpus."""
    monkeypatch.setattr(probe, "driver_version", raising(DeviceError("libcuda.so.1 not found")))
    monkeypatch.setattr(nvidia, "kernel_module_version", lambda: "580.1")
    (check,) = nvidia.driver()
    assert check.state == "broken" and "--gpus all" in check.fix


GPU = probe.Gpu(0, "H100", (9, 0), 80_000_000_000, 79_000_000_000, "")


def test_gpus_that_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    old = probe.Gpu(1, "T4", (7, 0), 16_000_000_000, 1, "")
    full = probe.Gpu(2, "A10", (8, 6), 24_000_000_000, None, "out of memory")
    monkeypatch.setattr(probe, "gpus", lambda: [GPU, old, full])
    whole, *each = nvidia.device()
    assert whole.state == "ok" and [check.id for check in each] == ["device.0", "device.1", "device.2"]
    assert [check.state for check in each] == ["ok", "broken", "broken"]
    assert "79.0 GB of 80.0 GB free" in each[0].found and "--device cpu" in each[1].fix


@pytest.mark.parametrize(
    ("gpus", "state", "told"),
    [
        (lambda: [], "missing", "finds none"),
        (raising(DeviceError("no library")), "missing", "without a driver"),
        (raising(CudaError("cuInit", "CUDA_ERROR_NO_DEVICE", "", "")), "missing", "finds none"),
        (raising(CudaError("cuInit", "CUDA_ERROR_UNKNOWN", "", "")), "broken", "CUDA_ERROR_UNKNOWN"),
    ],
)
def test_gpus_that_are_not(monkeypatch: pytest.MonkeyPatch, gpus: Any, state: str, told: str) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(probe, "gpus", gpus)
    (check,) = nvidia.device()
    assert check.state == state and told in check.found


def test_a_hidden_gpu_says_by_what(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "gpus", lambda: [])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert "CUDA_VISIBLE_DEVICES=''" in only(nvidia.device(), "device").found


def test_an_nvrtc_that_compiles_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "nvrtc_version", lambda: (13, 0))
    monkeypatch.setattr(probe, "gpus", lambda: [GPU])
    monkeypatch.setattr(
        probe, "try_nvrtc", raising(CudaError("nvrtcCompileProgram", "NVRTC_ERROR_COMPILATION", "", ""))
    )
    (check,) = nvidia.nvrtc()
    assert check.state == "broken" and "sm_90" in check.meaning and "nvidia-cuda-nvrtc==13" in check.fix


@pytest.mark.needs_nvrtc
def test_an_nvrtc_that_works() -> None:
    (check,) = runner.ask("nvrtc")
    assert check.state == "ok" and check.facts["version"][0] >= 12, check


def test_headers_that_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = raising(CompileError("CUDA's headers are missing; run: pip install nvidia-cuda-runtime"))
    monkeypatch.setattr(nvidia, "cuda_headers", missing)
    monkeypatch.setattr(nvidia, "host_cuda_headers", lambda: "/there")
    first, second = nvidia.headers()
    assert (first.state, first.fix) == ("missing", "pip install nvidia-cuda-runtime")
    assert (second.state, second.found) == ("ok", "/there")


# The host


@pytest.mark.parametrize(("name", "value"), [("CUTAWAY_CPU_THREADS", "0"), ("CUTAWAY_CPU_MEMORY", "much")])
def test_limits_of_the_cpu_device_that_cannot_be(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    (check,) = host.cpu()
    assert check.state == "broken" and check.fix == f"unset {name}"


# Caches


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CUTAWAY_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def make_entry(folder: Path) -> Path:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with aside(folder.parent) as scratch:
        made = scratch / "entry"
        made.mkdir()
        (made / "image").write_bytes(bytes(1000))
        seal(made)
        keep(made, folder)
    return folder


def test_an_empty_cache_is_well(cache: Path) -> None:
    (check,) = caches.kernel_cache()
    assert check.state == "ok" and check.facts["entries"] == 0 and check.facts["path"] == str(cache)


def test_damage_and_leftovers_are_found(cache: Path) -> None:
    good, bad = make_entry(cache / "kernels" / "cpu" / "good-1"), make_entry(cache / "cpu" / "bad-1")
    (bad / "image").write_bytes(b"short")
    left = cache / "cpu" / ".part-killed"
    left.mkdir()
    (left / "half").write_bytes(bytes(10))
    checks = caches.kernel_cache()
    assert only(checks, "kernel_cache").facts["entries"] == 2
    damaged = only(checks, "kernel_cache.damaged")
    assert damaged.facts["paths"] == [str(bad)] and damaged.fix == f"rm -r {bad}"
    assert only(checks, "kernel_cache.leftovers").facts["paths"] == [str(left)]
    assert good.is_dir() and bad.is_dir() and left.is_dir(), "the doctor looks and does not touch"


def test_a_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("CUTAWAY_CACHE", str(tmp_path / "file"))
    (check,) = caches.kernel_cache()
    assert check.state == "broken" and str(tmp_path / "file") in check.found and "CUTAWAY_CACHE=" in check.fix


def test_a_disk_that_is_nearly_full(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caches, "ROOM_WANTED", 1e18)
    (check,) = caches.kernel_cache()
    assert check.state == "broken" and "nearly full" in check.meaning


def test_models_that_are_there_and_one_that_was_cut(cache: Path) -> None:
    (check,) = caches.model_cache()
    assert check.state == "missing" and "fetches" in check.meaning
    (cache / "models").mkdir(parents=True)
    default = cache / "models" / check.facts["default"]
    default.write_bytes(b"cut")
    (check,) = caches.model_cache()
    assert check.state == "broken" and check.fix == f"rm {default}"


# Variables


@pytest.mark.parametrize(
    ("name", "value", "state"),
    [
        ("CUTAWAY_DEVICE", "cpu", "ok"),
        ("CUTAWAY_DEVICE", "gpu", "broken"),
        ("CUTAWAY_CPU_FENCES", "always", "broken"),
        ("CUTAWAY_CPU_SCHEDULE", "greedy:7", "ok"),
        ("CUTAWAY_CPU_SCHEDULE", "lazy", "broken"),
        ("CUTAWAY_CACHES", "/tmp", "broken"),
        ("CUDA_VISIBLE_DEVICES", "1", "ok"),
    ],
)
def test_values_of_variables(monkeypatch: pytest.MonkeyPatch, name: str, value: str, state: str) -> None:
    monkeypatch.setenv(name, value)
    check = only(variables.probe(), f"environment.{name}")
    assert check.state == state and (state == "ok" or check.fix == f"unset {name}")


def test_a_token_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert "hf_secret" not in str(variables.probe())


def test_every_variable_of_the_sources_is_known(repository: Path) -> None:
    text = "".join(path.read_text() for room in ("bindings", "engine") for path in (repository / room).rglob("*.py"))
    assert set(re.findall(r'environ(?:\.get\(|\[)"(CUTAWAY_\w+)"', text)) == set(variables.READERS)


# Probes that go wrong


@pytest.mark.parametrize(
    ("script", "told"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "killed by SIGSEGV"),
        ("raise SystemExit('no way')", "ended with status 1: no way"),
        ("print('hello')", "ended with status 0: without a word"),
        ("print('[{}]')", "ended with status 0"),
        ("import time; time.sleep(60)", "no answer within 1 s"),
    ],
)
def test_a_probe_that_goes_wrong_is_one_broken_check(script: str, told: str) -> None:
    (check,) = runner.ask("driver", [sys.executable, "-c", script], timeout=1)
    assert (check.id, check.state) == ("driver", "broken") and told in check.found and "\n" not in check.found


@pytest.mark.parametrize(
    ("error", "told"),
    [(ValueError("first\nsecond"), "ValueError: first"), (ModuleNotFoundError("No module named 'x'"), "No module")],
)
def test_an_exception_of_a_probe_is_one_broken_check(
    monkeypatch: pytest.MonkeyPatch, error: Exception, told: str
) -> None:
    monkeypatch.setattr(nvidia, "driver", raising(error))
    (check,) = runner.answer("driver")
    assert check.state == "broken" and told in check.found and "second" not in check.found


# The table


def test_the_table_is_narrow_and_says_everything() -> None:
    long = Check("driver", "a name that is longer than its column", "broken", "found " * 40, "meaning " * 30, "fix it")
    text = table.render([*WELL, long, Check("environment", "X", "missing", "")], colour=False)
    assert max(map(len, text.splitlines())) <= table.WIDTH
    assert text.count("found") == 40 and text.count("meaning") == 30 and "fix: fix it" in text
    assert "\x1b" not in text and "\x1b[31mbroken\x1b[0m" in table.render([long], colour=True)


def test_colours_follow_terminal_and_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert doctor.in_colour(Terminal()) and not doctor.in_colour(io.StringIO())
    monkeypatch.setenv("NO_COLOR", "1")
    assert not doctor.in_colour(Terminal())


@pytest.mark.parametrize(("nbytes", "text"), [(0, "0 bytes"), (1500, "1.5 kB"), (28e6, "28.0 MB"), (80e9, "80.0 GB")])
def test_sizes(nbytes: float, text: str) -> None:
    assert size(nbytes) == text
