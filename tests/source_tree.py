"""Reads the project's own sources for the tests that hold its rules: imports, names used, comments, docs."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent


def python_files(*rooms: str) -> list[Path]:
    """Every .py file of these folders, as paths relative to the repository."""
    found = (path for room in rooms for path in (REPOSITORY / room).rglob("*.py"))
    return sorted(path.relative_to(REPOSITORY) for path in found)


def parse(path: Path) -> ast.Module:
    """The syntax tree of a file given relative to the repository."""
    return ast.parse((REPOSITORY / path).read_text(encoding="utf-8"), filename=str(path))


def imports(tree: ast.AST) -> Iterator[tuple[str, str, int]]:
    """(imported module or module.name, its name here, line) for each import, those inside functions too.

    `from cuda.bindings import driver as names` gives ("cuda.bindings.driver", "names", ...).
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, alias.asname or alias.name.split(".")[0], node.lineno
        elif isinstance(node, ast.ImportFrom):
            dots = "." * node.level
            for alias in node.names:
                yield f"{dots}{node.module or ''}.{alias.name}", alias.asname or alias.name, node.lineno


def definitions(tree: ast.Module) -> set[str]:
    """The functions, classes, methods and module-level names that a file defines, methods as Class.method."""
    found: set[str] = set()
    for node in tree.body:
        found |= _defined_by(node, prefix="")
    return found


def _defined_by(node: ast.stmt, prefix: str) -> set[str]:
    if isinstance(node, ast.FunctionDef):
        return {prefix + node.name}
    if isinstance(node, ast.ClassDef):
        inner = (_defined_by(child, f"{prefix}{node.name}.") for child in node.body)
        return {prefix + node.name}.union(*inner)
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    return {prefix + target.id for target in targets if isinstance(target, ast.Name)}


def cuda_files() -> list[Path]:
    """Every CUDA source and header of the kernels, relative to the repository."""
    root = REPOSITORY / "cuda_src"
    return sorted(path.relative_to(REPOSITORY) for path in root.rglob("*") if path.suffix in (".cu", ".cuh"))


def without_comments(source: str) -> str:
    """C++ source with comments and string literals blanked, so that a word found in it is code."""
    return re.sub(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"', " ", source, flags=re.DOTALL)


def opening_comment(source: str) -> str:
    """The comment that a C++ file opens with; empty if it opens with something else."""
    match = re.match(r"\s*(/\*.*?\*/|(?:[ \t]*//[^\n]*\n)+)", source, flags=re.DOTALL)
    return match.group(1) if match else ""
