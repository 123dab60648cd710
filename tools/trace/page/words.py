"""What a call does, and why the engine makes it, in the words of `--explain`."""

from __future__ import annotations

from typing import Any

from tools.trace.explanations import Explainer


def sentences(body: dict[str, Any]) -> list[str]:
    """The sentences for a call with these fields."""
    return Explainer()({"kind": "call"} | body)
