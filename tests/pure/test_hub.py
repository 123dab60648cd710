"""Models by name from the hub, played by a server on this machine: what is fetched, and what goes wrong."""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants, file_download

from engine.checkpoint import open_checkpoint
from engine.errors import ModelError, UsageError
from engine.hub import HubName, parse_hub_name
from engine.model_files import resolve_model
from tests.fake_hub import COMMIT, TOKEN, FakeHub, Repo, serve
from tests.tiny_llama import MODELS
from tests.tiny_model import join_safetensors, write_json

NAME = "tiny-labs/Tiny-Llama"
INDEX = "model.safetensors.index.json"
Steps = list[tuple[str, int, int, str]]


@pytest.fixture(scope="module")
def model_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A small model's folder, and beside it what a repository has that a model does not need."""
    folder = MODELS["gqa1-d64"].write(tmp_path_factory.mktemp("model"))
    write_json(folder / "generation_config.json", {"eos_token_id": [0, 5]})
    write_json(folder / "tokenizer_config.json", {"chat_template": "{{ messages[0].content }}"})
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    unneeded = (
        "README.md",
        "pytorch_model.bin",
        "original/consolidated.00.pth",
        "original/params.json",
        "tokenizer.model",
    )
    unneeded += ("onnx/model.onnx", "consolidated.safetensors", "tiny.Q4_0.gguf", "original/tokenizer.json")
    return files | {name: b"not needed" for name in unneeded}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model_files: dict[str, bytes]) -> Iterator[FakeHub]:
    """A hub with the model, set as the package reads it from the environment when it is imported."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    with serve() as hub:
        hub.repos[NAME] = Repo(dict(model_files))
        monkeypatch.setattr(constants, "ENDPOINT", hub.address)
        template = hub.address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(file_download.time, "sleep", lambda seconds: None)  # between attempts
        yield hub


def assert_is_the_model(folder: Path) -> None:
    model = MODELS["gqa1-d64"]
    with open_checkpoint(folder) as checkpoint:
        assert checkpoint.tensor_names == tuple(model.weights)
        assert checkpoint.config.eos_token_ids == (0, 5)


def assert_nothing_is_half() -> None:
    """The weights are not there, and what is there is whole. (Older packages keep *.incomplete files to go on with.)"""
    cache = Path(constants.HF_HUB_CACHE)
    assert not list(cache.rglob("model.safetensors"))
    blobs = [path for path in cache.rglob("blobs/*") if path.suffix != ".incomplete"]
    assert blobs and all(hashlib.sha256(path.read_bytes()).hexdigest() == path.name for path in blobs)


def shard(repo: Repo) -> list[str]:
    """The model's weights in two files and an index; returns the names of the two."""
    whole = repo.files.pop("model.safetensors")
    size = int.from_bytes(whole[:8], "little")
    header, data = json.loads(whole[8 : 8 + size]), whole[8 + size :]
    header.pop("__metadata__")
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    weight_map = {name: names[i % 2] for i, name in enumerate(header)}
    for file in names:
        mine: dict[str, Any] = {}
        part = b""
        for name, entry in header.items():
            if weight_map[name] == file:
                begin, end = entry["data_offsets"]
                mine[name] = {**entry, "data_offsets": [len(part), len(part) + end - begin]}
                part += data[begin:end]
        repo.files[file] = join_safetensors(mine, part)
    repo.files[INDEX] = json.dumps({"weight_map": weight_map}).encode()
    return names


def test_only_the_files_needed_are_fetched_and_only_once(hub: FakeHub) -> None:
    steps: Steps = []
    folder = resolve_model(NAME, lambda *step: steps.append(step))
    assert_is_the_model(folder)
    needed = ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"]
    assert hub.fetched() == sorted(needed)
    sizes = {name: len(content) for name, content in hub.repos[NAME].files.items()}
    settings = sum(sizes[name] for name in needed[:-1])
    stages = {f"fetch settings of {NAME}": settings, f"fetch weights of {NAME}": sizes["model.safetensors"]}
    for stage, total in stages.items():
        done = [step[1] for step in steps if step[0] == stage]
        assert done == sorted(done) and (done[0], done[-1]) == (0, total)
    assert {(stage, total, unit) for stage, _, total, unit in steps} == {(*item, "bytes") for item in stages.items()}

    hub.requests.clear()
    assert resolve_model(NAME, lambda *step: steps.append(step)) == folder
    assert hub.requests == [f"GET /api/models/{NAME}"], "what is there needs no more than a look at the commit"


def test_shards_are_those_of_the_index(hub: FakeHub) -> None:
    names = shard(hub.repos[NAME])
    hub.repos[NAME].files["model-00009-of-00009.safetensors"] = b"not needed"
    assert_is_the_model(resolve_model(NAME))
    assert [file for file in hub.fetched() if file.endswith(".safetensors")] == names


def test_one_gguf_file_is_fetched_alone(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.repos[NAME].files["deep/er/b.gguf"] = b"deep"
    path = resolve_model(f"{NAME}:tiny.Q4_0.gguf")
    assert path.name == "tiny.Q4_0.gguf" and path.read_bytes() == b"not needed"
    assert resolve_model(f"{NAME}:deep/er/b.gguf").read_bytes() == b"deep"
    assert hub.fetched() == ["deep/er/b.gguf", "tiny.Q4_0.gguf"]
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert resolve_model(f"{NAME}:tiny.Q4_0.gguf") == path
    assert resolve_model(f"{NAME}:deep/er/b.gguf").read_bytes() == b"deep"


def test_a_revision_is_fetched_and_a_whole_commit_needs_no_hub(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    other = COMMIT[::-1]
    hub.repos[NAME].revisions["v2"] = other
    folder = resolve_model(NAME, revision="v2")
    assert folder.name == other
    assert resolve_model(NAME).name == COMMIT
    hub.requests.clear()
    assert resolve_model(NAME, revision=other) == folder
    assert hub.requests == []
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert resolve_model(NAME, revision="v2") == folder
    with pytest.raises(ModelError, match="HF_HUB_OFFLINE is set"):
        resolve_model(NAME, revision="v3")


def test_a_token_opens_what_is_gated_or_private(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    for access in ("gated", "private"):
        hub.repos[f"x/{access}"] = Repo(hub.repos[NAME].files, access)
        assert_is_the_model(resolve_model(f"x/{access}"))


@pytest.mark.parametrize("trouble", ["offline", "no network", "503"])
def test_a_copy_serves_where_the_hub_does_not(hub: FakeHub, monkeypatch: pytest.MonkeyPatch, trouble: str) -> None:
    folder = resolve_model(NAME)
    make_trouble(hub, monkeypatch, trouble)
    assert resolve_model(NAME) == folder
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=rf"{NAME}: its copy in \S+/hub lacks model\.safetensors, and it can't be f"):
        resolve_model(NAME)


def make_trouble(hub: FakeHub, monkeypatch: pytest.MonkeyPatch, trouble: str) -> None:
    if trouble == "offline":
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    elif trouble == "no network":
        monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    else:
        hub.broken = int(trouble)


@pytest.mark.parametrize(
    ("trouble", "message"),
    [
        ("offline", r"is not in \S+/hub and can't be fetched: HF_HUB_OFFLINE is set; run once without it$"),
        ("no network", r"can't be fetched: http://127\.0\.0\.1:9: ConnectError: .*; check the network$"),
        ("503", r"can't be fetched: http://127\.0\.0\.1:\d+ answers 503; try again later$"),
        ("401", r"http://127\.0\.0\.1:\d+ refuses tiny-labs/Tiny-Llama \(401\): set HF_TOKEN to a token"),
        ("403", r"http://127\.0\.0\.1:\d+ refuses tiny-labs/Tiny-Llama \(403\): set HF_TOKEN to a token"),
        ("418", r"http://127\.0\.0\.1:\d+ answers 418 for tiny-labs/Tiny-Llama: "),
    ],
)
def test_what_the_hub_does_not_give_is_told(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch, trouble: str, message: str
) -> None:
    make_trouble(hub, monkeypatch, trouble)
    with pytest.raises(ModelError, match=message) as caught:
        resolve_model(NAME)
    assert NAME in str(caught.value) and "\n" not in str(caught.value)


def test_a_repository_that_can_not_be_had_is_told(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.repos["x/gated"] = Repo(hub.repos[NAME].files, "gated")
    address = r"http://127\.0\.0\.1:\d+"
    absent = (
        rf"no model x/\w+ on {address}, nor a folder or file of this name: check the spelling; if it is private, set"
    )
    gated = rf"x/gated is gated: ask for access at {address}/x/gated, then set HF_TOKEN .*{address}/settings/tokens"
    revision = rf"{NAME} on {address} has no branch, tag or commit v9$"
    for name, at, message in (("x/none", None, absent), ("x/gated", None, gated), (NAME, "v9", revision)):
        with pytest.raises(ModelError, match=message):
            resolve_model(name, revision=at)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with pytest.raises(ModelError, match=absent):
        resolve_model("x/none")
    with pytest.raises(ModelError, match=r"x/a--b is no name of a repository: HFValidationError: "):
        resolve_model("x/a--b")


@pytest.mark.parametrize(
    ("name", "gone", "message"),
    [
        (
            NAME,
            ["model.safetensors"],
            r"has no model\.safetensors nor \S+index\.json; name one of its 1 GGUF files, as in",
        ),
        (NAME, ["model.safetensors", "tiny.Q4_0.gguf"], r"nor \S+; a model needs safetensors, config\.json and tok"),
        (NAME, ["tokenizer.json", "tiny.Q4_0.gguf"], r"has no tokenizer\.json; a model needs"),
        (f"{NAME}:a.gguf", [], r"has no file a\.gguf; it has tiny\.Q4_0\.gguf$"),
        (f"{NAME}:a.gguf", ["tiny.Q4_0.gguf"], r"has no file a\.gguf$"),
    ],
)
def test_a_repository_without_the_files_is_told(hub: FakeHub, name: str, gone: list[str], message: str) -> None:
    for file in gone:
        del hub.repos[NAME].files[file]
    with pytest.raises(ModelError, match=message):
        resolve_model(name)
    assert hub.fetched() == []


def test_a_shard_that_the_repository_lacks_is_told(hub: FakeHub) -> None:
    first, second = shard(hub.repos[NAME])
    del hub.repos[NAME].files[second]
    with pytest.raises(ModelError, match=rf"has no file {second}; it has consolidated\.safetensors, {first}$"):
        resolve_model(NAME)


def test_a_kind_that_does_not_run_is_told_before_its_weights_come(hub: FakeHub) -> None:
    hub.repos[NAME].files["config.json"] = b'{"architectures": ["Qwen2ForCausalLM"]}'
    with pytest.raises(ModelError, match="names Qwen2ForCausalLM; only"):
        resolve_model(NAME)
    assert "model.safetensors" not in hub.fetched()


def test_a_download_that_breaks_off_goes_on_and_never_counts_as_whole(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.cut["model.safetensors"] = 1000
    with pytest.raises(ModelError, match=rf"{NAME}: the download broke off: .*; run again to fetch what is missing$"):
        resolve_model(NAME)
    assert_nothing_is_half()
    with monkeypatch.context() as patch:
        patch.setattr(constants, "HF_HUB_OFFLINE", True)
        with pytest.raises(ModelError, match=r"is not in .* HF_HUB_OFFLINE is set"):
            resolve_model(NAME)
    hub.cut.clear()
    hub.requests.clear()
    assert_is_the_model(resolve_model(NAME))
    assert hub.fetched() == ["model.safetensors"]


def test_a_full_disk_is_told_before_and_while_fetching(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    remedy = r"make room there, or set HF_HOME to another folder$"
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 10))
        with pytest.raises(
            ModelError, match=rf"{NAME}: 0\.00 GB are to be fetched and 0\.00 GB are free in .*; {remedy}"
        ):
            resolve_model(NAME)
    assert hub.fetched() == []

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(file_download, "http_get", full)
    with pytest.raises(ModelError, match=rf"cannot put {NAME} into \S+: No space left on device; {remedy}"):
        resolve_model(NAME)


def test_interrupt_leaves_nothing_half_written(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(stage: str, done: int, total: int, unit: str) -> None:
        if "weights" in stage and done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        resolve_model(NAME, interrupt)
    assert_nothing_is_half()
    assert_is_the_model(resolve_model(NAME))


# What is a name on the hub


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("meta-llama/Llama-3.2-1B-Instruct", HubName("meta-llama/Llama-3.2-1B-Instruct")),
        ("a/b:c.gguf", HubName("a/b", "c.gguf")),
        ("a/b:folder/c-Q4_K_M.gguf", HubName("a/b", "folder/c-Q4_K_M.gguf")),
        ("a/b:../../c.gguf", None),
        ("a/b:/c.gguf", None),
        ("a/b:Q4_K_M", None),
        ("a/b.gguf", None),
        ("a", None),
        ("a/b/c", None),
        ("./a/b", None),
        ("../b", None),
        ("/a/b", None),
        ("~/b", None),
        ("a/", None),
        ("a b/c", None),
        ("", None),
        ("None", None),
    ],
)
def test_what_is_a_name_on_the_hub(text: str, expected: HubName | None) -> None:
    assert parse_hub_name(text) == expected


def test_a_folder_that_is_here_comes_first(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    MODELS["gqa1-d64"].write(tmp_path / NAME)
    monkeypatch.chdir(tmp_path)
    assert resolve_model(NAME) == Path(NAME)
    assert hub.requests == []
    with pytest.raises(UsageError, match=rf"revision 'v2' is for a name on the hub; {NAME} is none"):
        resolve_model(NAME, revision="v2")
    with pytest.raises(UsageError, match=r"revision 'v2' is for a name on the hub; the default model is none"):
        resolve_model(None, revision="v2")
