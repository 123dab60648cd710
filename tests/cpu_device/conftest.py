"""The schedule is a setting of the process: every test starts from the default one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bindings.cpu import executor


@pytest.fixture(autouse=True)
def default_schedule() -> Iterator[None]:
    executor.set_schedule("ascending")
    yield
    executor.set_schedule("ascending")
