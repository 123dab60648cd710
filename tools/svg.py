"""Plain SVG without a library: text, boxes, and a page in light and dark. No scripts; nothing is fetched."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from xml.sax.saxutils import escape

Colours = Mapping[str, str]

# What every picture has: its page, its text, the lines behind what is drawn.
LIGHT = {"page": "#ffffff", "frame": "#d5dae1", "text": "#1d2430", "muted": "#667085", "grid": "#e9ecf1"}
DARK = {"page": "#11161d", "frame": "#2c3440", "text": "#e6eaf0", "muted": "#98a3b3", "grid": "#212832"}


def text(x: float, y: float, words: str, kind: str = "text", anchor: str = "start") -> str:
    """Words at a place, in the colour and size of `kind`."""
    return f'<text class="{kind}" x="{x:g}" y="{y:g}" text-anchor="{anchor}">{escape(words)}</text>'


def rect(kind: str, x: float, y: float, width: float, height: float, more: str = "") -> str:
    """A box; `more` are further attributes."""
    return f'<rect class="{kind}" x="{x:.4g}" y="{y:.4g}" width="{width:.4g}" height="{height:.4g}"{more}/>'


def style(light: Colours, dark: Colours, more: str = "") -> str:
    """The style sheet: a class for each colour that only this picture has, beside those of every picture.

    `more`: further rules, for sizes.
    """
    own = [name for name in light if name not in LIGHT]

    def rules(colours: Colours) -> str:
        fills = "".join(f".{name}{{fill:{colours[name]}}}" for name in ("text", "muted", *own))
        return (
            f".page{{fill:{colours['page']};stroke:{colours['frame']}}}.grid{{stroke:{colours['grid']}}}"
            f".heading{{fill:{colours['text']}}}{fills}"
        )

    fonts = ".heading{font-size:15px;font-weight:600}.small{font-size:10px}"
    return f"{fonts}{more}{rules(light)}@media(prefers-color-scheme:dark){{{rules(dark)}}}"


def document(width: float, height: float, title: str, css: str, body: Iterable[str]) -> str:
    """A whole picture on a page with a frame."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
        ' role="img" font-family="system-ui, -apple-system, Segoe UI, DejaVu Sans, sans-serif" font-size="12">',
        f"<title>{escape(title)}</title>",
        f"<style>{css}</style>",
        f'<rect class="page" x="0.5" y="0.5" width="{width - 1}" height="{height - 1}" rx="8"/>',
        *body,
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def save(path: Path, content: str | bytes) -> None:
    """Write a file whole or not at all."""
    data = content.encode() if isinstance(content, str) else content
    with tempfile.NamedTemporaryFile("wb", dir=path.parent, prefix=".part-", delete=False) as file:
        try:
            file.write(data)
            file.close()
            os.chmod(file.name, 0o644)
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise
