"""The tokenizer.model of Llama 3, which Meta's package llama-models carries; fetched once, as the default model is."""

from __future__ import annotations

from pathlib import Path

from bindings.cache_directory import cache_directory
from engine.progress import silent
from engine.wheel import PinnedWheel, fetch_member

WHEEL = PinnedWheel(
    package="llama-models",
    version="0.3.0",
    filename="llama_models-0.3.0-py3-none-any.whl",
    nbytes=6_612_946,
    sha256="7f77f78ff13fca09f70d76a376aff6414cd901623fb9d57e69c2f8367a73032f",
    member="llama_models/llama3/tokenizer.model",
    member_nbytes=2_183_982,
    member_sha256="82e9d31979e92ab929cd544440f129d9ecd797b69e327f80f17e1c50d5551b55",
)


def llama3_ranks() -> Path:
    """The file, verified when it was fetched."""
    path = cache_directory("tests") / "llama3-tokenizer.model"
    if not path.is_file() or path.stat().st_size != WHEEL.member_nbytes:
        fetch_member(WHEEL, path, "fetching Llama 3's tokenizer", silent)
    return path
