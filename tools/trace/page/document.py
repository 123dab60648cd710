"""Template, style, scripts and data as one HTML document.

Nothing of the trace is ever part of the HTML's markup but the title, which is escaped: the data is JSON, gzipped and in
base64, inside an element that no browser runs. The page forbids itself the network, and every script but its own, by
a content security policy that lists their hashes; so a text of a trace could not run even if a script put it in badly.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import html
import json
import re
from pathlib import Path
from typing import Any

_FOLDER = Path(__file__).parent
# In the order in which they need each other.
SCRIPTS = (
    "format.js",
    "dom.js",
    "paths.js",
    "data.js",
    "lanes.js",
    "state.js",
    "palette.js",
    "drawing.js",
    "minimap.js",
    "timeline.js",
    "tree_model.js",
    "tree.js",
    "source.js",
    "roofline.js",
    "product.js",
    "launch.js",
    "page_history.js",
    "page_grid.js",
    "pages.js",
    "batch.js",
    "memory.js",
    "kv_address.js",
    "inspector.js",
    "search.js",
    "keys.js",
    "main.js",
)


def document(data: dict[str, Any], command: str) -> str:
    """The whole page, for a trace of `command`."""
    style = (_FOLDER / "page.css").read_text(encoding="utf-8")
    scripts = [(_FOLDER / name).read_text(encoding="utf-8") for name in SCRIPTS]
    parts = {
        "title": html.escape(command or "a trace").encode("utf-8", "replace").decode(),  # argv may hold other bytes
        "policy": html.escape(_policy(style, scripts)),
        "style": f"<style>{style}</style>",
        "data": _embedded(data),
        "scripts": "\n".join(f"<script>{script}</script>" for script in scripts),
    }
    template = (_FOLDER / "template.html").read_text(encoding="utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match.group(1)], template)  # one pass: no part is searched


def _embedded(data: dict[str, Any]) -> str:
    """The data for a script element: base64 knows no character that could end it."""
    text = json.dumps(data, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return base64.b64encode(gzip.compress(text.encode("utf-8", "surrogatepass"), 6, mtime=0)).decode()


def _policy(style: str, scripts: list[str]) -> str:
    own = " ".join(_hash(script) for script in scripts)
    rules = ("default-src 'none'", "img-src data:", f"style-src {_hash(style)}", f"script-src {own}", "base-uri 'none'")
    return "; ".join((*rules, "form-action 'none'"))


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
