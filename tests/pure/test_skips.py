"""The rules of tests/conftest.py: skips are counted, an unknown one fails the session, a hang is traced."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import missing_need
from tests.skips import REASONS


def run_pytest(tmp_path: Path, repository: Path, source: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Run `source` as a test file of its own, with tests/conftest.py loaded as a plugin."""
    (tmp_path / "test_sample.py").write_text(source)
    command = [sys.executable, "-m", "pytest", "-p", "tests.conftest", "--rootdir", str(tmp_path)]
    environment = {
        **os.environ,
        "PYTHONPATH": str(repository),
        "CUTAWAY_DEVICE": "cpu",
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
    }
    return subprocess.run(
        [*command, *options, "test_sample.py"], cwd=tmp_path, env=environment, capture_output=True, text=True
    )


def test_known_skip_is_counted(tmp_path: Path, repository: Path) -> None:
    source = """
import pytest

@pytest.mark.needs_gpu
@pytest.mark.parametrize("n", [1, 2])
def test_on_gpu(n): raise AssertionError("runs on a GPU only")

def test_anywhere(): pass
"""
    result = run_pytest(tmp_path, repository, source)
    assert result.returncode == 0, result.stdout
    assert "skipped 2: needs an NVIDIA GPU" in result.stdout
    assert "1 passed, 2 skipped" in result.stdout


def test_unknown_skips_fail_the_session(tmp_path: Path, repository: Path) -> None:
    (tmp_path / "test_module.py").write_text('import pytest\npytest.skip("by module", allow_module_level=True)\n')
    (tmp_path / "test_import.py").write_text('import pytest\npytest.importorskip("no_such", reason="by import")\n')
    source = """
import pytest

def test_ok(): pass

def test_call(): pytest.skip("by call")

@pytest.mark.skip(reason="by mark")
def test_mark(): pass
"""
    result = run_pytest(tmp_path, repository, source, "test_module.py", "test_import.py")
    assert result.returncode != 0, result.stdout
    assert "1 passed, 4 skipped" in result.stdout
    for reason in ("by module", "by import", "by call", "by mark"):
        assert f"FAILED: 1 skipped for a reason not in tests/skips.py: {reason}" in result.stdout


def test_no_way_to_skip_goes_uncounted(tmp_path: Path, repository: Path) -> None:
    source = """
import unittest
import pytest

@pytest.fixture
def absent(): pytest.skip("by fixture")

def test_fixture(absent): pass

@pytest.mark.skipif(True, reason="by condition")
def test_condition(): pass

@pytest.mark.skip(reason="by class")
class TestClass:
    def test_method(self): pass

class TestCase(unittest.TestCase):
    def test_raise(self): raise unittest.SkipTest("by unittest")

def test_memory(): pytest.skip("out of memory")
"""
    result = run_pytest(tmp_path, repository, source)
    assert result.returncode == pytest.ExitCode.TESTS_FAILED, result.stdout
    for reason in ("by fixture", "by condition", "by class", "by unittest", "out of memory"):
        assert f"FAILED: 1 skipped for a reason not in tests/skips.py: {reason}" in result.stdout


def test_known_and_unknown_skips_are_told_apart(tmp_path: Path, repository: Path) -> None:
    source = """
import pytest

@pytest.mark.needs_gpu
def test_on_gpu(): raise AssertionError("runs on a GPU only")

def test_nearly(): pytest.skip("needs an NVIDIA GPU, or so")
"""
    result = run_pytest(tmp_path, repository, source)
    assert result.returncode == pytest.ExitCode.TESTS_FAILED, result.stdout
    assert "skipped 1: needs an NVIDIA GPU\n" in result.stdout
    assert "not in tests/skips.py: needs an NVIDIA GPU, or so" in result.stdout


def test_a_misspelt_marker_is_an_error(tmp_path: Path, repository: Path) -> None:
    source = "import pytest\n\n@pytest.mark.need_gpu\ndef test_x(): pass\n"
    result = run_pytest(tmp_path, repository, source, "--strict-markers")
    assert result.returncode != 0
    assert "'need_gpu' not found in `markers`" in result.stdout


@pytest.mark.parametrize("marker", REASONS)
def test_every_marker_has_a_rule(marker: str, pytestconfig: pytest.Config) -> None:
    assert missing_need(marker, pytestconfig) in (True, False)


def test_a_marker_without_a_rule_is_an_error(pytestconfig: pytest.Config) -> None:
    with pytest.raises(AssertionError, match="no rule for marker needs_luck"):
        missing_need("needs_luck", pytestconfig)


def test_expected_failure_is_no_skip(tmp_path: Path, repository: Path) -> None:
    source = "import pytest\n\n@pytest.mark.xfail(strict=True)\ndef test_x(): assert False\n"
    result = run_pytest(tmp_path, repository, source)
    assert result.returncode == 0, result.stdout
    assert "1 xfailed" in result.stdout


def test_hang_ends_with_a_traceback(tmp_path: Path, repository: Path) -> None:
    source = "import time\n\ndef test_hangs(): time.sleep(60)\n"
    options = ("-o", "faulthandler_timeout=1", "-o", "faulthandler_exit_on_timeout=true")
    result = run_pytest(tmp_path, repository, source, *options)
    assert result.returncode != 0
    assert "test_hangs" in result.stderr


def test_project_sets_the_timeout(pytestconfig: pytest.Config) -> None:
    assert float(pytestconfig.getini("faulthandler_timeout")) == 300
    assert pytestconfig.getini("faulthandler_exit_on_timeout") is True


@pytest.mark.parametrize("count", ["0", "-1", "many"])
def test_a_hunt_needs_a_seed(count: str, tmp_path: Path, repository: Path) -> None:
    result = run_pytest(tmp_path, repository, "def test_ok(): pass\n", f"--schedule-seeds={count}")
    assert result.returncode == pytest.ExitCode.USAGE_ERROR
    assert f"--schedule-seeds: '{count}': expected a number from 1 on" in result.stderr


def test_a_hunt_takes_as_many_seeds_as_asked_for(tmp_path: Path, repository: Path) -> None:
    source = "def test_seeds(schedule_seeds): assert list(schedule_seeds) == [0, 1, 2]\n"
    assert run_pytest(tmp_path, repository, source, "--schedule-seeds", "3").returncode == 0


def test_wrong_device_is_refused(tmp_path: Path, repository: Path) -> None:
    result = run_pytest(tmp_path, repository, "def test_ok(): pass\n", "--device", "gpu")
    assert result.returncode == pytest.ExitCode.USAGE_ERROR
    assert "invalid choice: 'gpu'" in result.stderr
