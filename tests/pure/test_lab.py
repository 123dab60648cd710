"""The ladders of cuda_src/lab: the last rung is the production kernel, by include and not by copy."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine import lab_ops, ops
from engine.spec import Op

LADDERS = {"rmsnorm": ops.RMSNORM, "attention": ops.PREFILL_ATTENTION}


@pytest.mark.parametrize(("folder", "production"), LADDERS.items(), ids=LADDERS)
def test_last_rung_includes_the_production_file(repository: Path, folder: str, production: Op) -> None:
    last = sorted((repository / "cuda_src" / "lab" / folder).glob("v*.cu"))[-1]
    code = [line for line in last.read_text().splitlines() if line and not line.startswith("//")]
    assert code == [f'#include "../../{production.source}"'], f"{last.name} must hold that one line of code"


@pytest.mark.parametrize("op", lab_ops.ALL.values(), ids=lambda op: op.name)
def test_rung_says_what_it_adds(repository: Path, op: Op) -> None:
    text = (repository / "cuda_src" / op.source).read_text()
    rung = op.source.split("/v")[1][0]
    assert f", rung {rung} of 4:" in text.splitlines()[0]
    assert text.count("// Idea:") == 1
