"""The rules of tests/conftest.py: skips are counted, an unknown one fails the session, a hang is traced."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


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


def test_wrong_device_is_refused(tmp_path: Path, repository: Path) -> None:
    result = run_pytest(tmp_path, repository, "def test_ok(): pass\n", "--device", "gpu")
    assert result.returncode == pytest.ExitCode.USAGE_ERROR
    assert "invalid choice: 'gpu'" in result.stderr
