"""What a call does, and why the engine makes it, in the words of `--explain`."""

from __future__ import annotations

from typing import Any

from tools.trace.explanations import Explainer


def sentences(body: dict[str, Any]) -> list[str]:
    """The sentences for a call with these fields, those on the API behind those on what this call is for."""
    on_the_api, *others = Explainer()({"kind": "call"} | body)
    return [*others, on_the_api]
