"""A model by its name on the hub, through the real command: fetched, cached, and what the environment says heeded."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fake_hub import COMMIT, TOKEN, FakeHub, Repo, serve
from tests.tiny_llama import MODELS

NAME = "tiny-labs/Tiny-Llama"


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeHub]:
    """A hub with a private model."""
    folder = MODELS["gqa1-d64"].write(tmp_path_factory.mktemp("model"))
    with serve() as hub:
        hub.repos[NAME] = Repo({path.name: path.read_bytes() for path in folder.iterdir()}, "private")
        yield hub


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hf")


def run(
    repository: Path, hub: FakeHub, home: Path, *options: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Two tokens from the model, with the package's own variables in the environment."""
    command = [
        sys.executable,
        "-m",
        "tools.generate",
        "--model",
        NAME,
        "--raw",
        "--json",
        "--max-tokens",
        "2",
        *options,
    ]
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    variables = {"HF_ENDPOINT": hub.address, "HF_HOME": str(home), "no_proxy": "127.0.0.1", **environment}
    return subprocess.run(
        [*command, "Hello"], cwd=repository, env={**inherited, **variables}, capture_output=True, text=True, timeout=240
    )


def test_a_name_is_fetched_and_answers_then_without_the_hub_too(repository: Path, hub: FakeHub, home: Path) -> None:
    first = run(repository, hub, home, HF_TOKEN=TOKEN)
    assert first.returncode == 0, first.stderr
    told = [line for line in first.stderr.splitlines() if line.startswith("fetch ")]
    assert [line.partition(" (")[0] for line in told] == [f"fetch settings of {NAME}", f"fetch weights of {NAME}"]
    answer = json.loads(first.stdout)
    assert answer["model"] == NAME and len(answer["outputs"][0]["token_ids"]) == 2
    snapshot = home / "hub" / "models--tiny-labs--Tiny-Llama" / "snapshots" / COMMIT
    assert (snapshot / "model.safetensors").is_file()

    hub.requests.clear()
    offline = run(repository, hub, home, "--quiet", HF_HUB_OFFLINE="1")
    assert offline.returncode == 0 and offline.stderr == "" and hub.requests == [], offline.stderr
    assert json.loads(offline.stdout)["outputs"][0]["token_ids"] == answer["outputs"][0]["token_ids"]


@pytest.mark.parametrize(
    ("options", "environment", "named"),
    [
        ([], {}, [f"no model {NAME} on http://127.0.0.1:", "HF_TOKEN"]),
        ([], {"HF_HUB_OFFLINE": "1"}, [f"{NAME} is not in ", "HF_HUB_OFFLINE is set"]),
        (
            ["--revision", "v9"],
            {"HF_TOKEN": TOKEN},
            [f"{NAME} on http://127.0.0.1:", "has no branch, tag or commit v9"],
        ),
    ],
)
def test_a_name_that_can_not_be_had_is_one_line(
    repository: Path, hub: FakeHub, tmp_path: Path, options: list[str], environment: dict[str, str], named: list[str]
) -> None:
    result = run(repository, hub, tmp_path, "--quiet", *options, **environment)
    assert result.returncode == 1 and result.stdout == "", result.stderr
    assert result.stderr.startswith("cutaway generate: error: ") and result.stderr.count("\n") == 1, result.stderr
    assert all(part in result.stderr for part in named), result.stderr


def test_other_models_do_not_pay_for_the_package(repository: Path) -> None:
    """huggingface_hub takes half a second to import; importing the engine must not."""
    script = "import sys, engine, tools.generate; print('huggingface_hub' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], cwd=repository, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
