"""What the CPU device reads in, and adds to, the text of a `.cu`: its kernels, and its dynamic shared memory.

C++ has no `extern __shared__` and no way to list the kernels of a file. Everything else of CUDA is left to headers
(`simt/`), so that the compiler sees the very text that NVRTC sees, line by line.
"""

import re
from dataclasses import dataclass
from pathlib import Path

SIMT_HEADERS = Path(__file__).resolve().parent / "simt"
DEFAULT_MAX_THREADS = "1024"

_COMMENT_OR_STRING = re.compile(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', re.DOTALL)
_DYNAMIC_SHARED = re.compile(
    r"\bextern\s+__shared__\s+(?:(?:__align__|alignas)\s*\(\s*\d+\s*\)\s*)?(?P<type>[\w:\s]+?)\s*\b(?P<name>\w+)\s*\[\s*\]\s*;"
)
_KERNEL = re.compile(r'\bextern\s+"C"\s+__global__\b')
_NAME_BEFORE_ARGUMENTS = re.compile(r"(\w+)\s*\(")
_ATTRIBUTES = ("__launch_bounds__", "__align__", "__cluster_dims__", "__maxnreg__", "__block_size__")


@dataclass(frozen=True)
class KernelDeclaration:
    """A kernel's name, the C++ expression of the most threads a block of it may have, and its line in the file."""

    name: str
    max_threads: str
    line: int


def _without_comments(source: str) -> str:
    """`source` with comments, and strings other than "C", turned into blanks; every character keeps its place."""

    def blank(match: re.Match[str]) -> str:
        text = match.group()
        return text if text == '"C"' else re.sub(r"[^\n]", " ", text)

    return _COMMENT_OR_STRING.sub(blank, source)


def _closing_parenthesis(text: str, opening: int) -> int:
    depth = 0
    for position in range(opening, len(text)):
        depth += {"(": 1, ")": -1}.get(text[position], 0)
        if depth == 0:
            return position
    return len(text)


def _first_argument(text: str) -> str:
    depth = 0
    for position, character in enumerate(text):
        depth += {"(": 1, ")": -1}.get(character, 0)
        if character == "," and depth == 0:
            return text[:position].strip()
    return text.strip()


def _declaration(text: str, position: int) -> KernelDeclaration | None:
    """The kernel whose `extern "C" __global__` ends at `position`."""
    line = text.count("\n", 0, position) + 1
    max_threads = DEFAULT_MAX_THREADS
    while match := _NAME_BEFORE_ARGUMENTS.search(text, position):
        position = _closing_parenthesis(text, match.end() - 1)
        if match.group(1) == "__launch_bounds__":
            max_threads = _first_argument(text[match.end() : position])
        elif match.group(1) not in _ATTRIBUTES:
            return KernelDeclaration(match.group(1), max_threads, line)
    return None


def find_kernels(source: str) -> list[KernelDeclaration]:
    """The kernels that `source` declares as `extern "C" __global__ void name(...)`, in order, each once."""
    text = _without_comments(source)
    kernels: dict[str, KernelDeclaration] = {}
    for match in _KERNEL.finditer(text):
        found = _declaration(text, match.end())
        if found:
            kernels.setdefault(found.name, found)
    return list(kernels.values())


def _declare_dynamic_shared(match: re.Match[str]) -> str:
    newlines = "\n" * match.group().count("\n")
    return f"SIMT_DYNAMIC_SHARED({match['type']}, {match['name']});{newlines}"


def _quoted(name: str) -> str:
    escaped = name.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def to_host_source(source: str, name: str) -> str:
    """`source` as a C++ file that a host compiler takes after `simt.h`; messages name lines of the file `name`."""
    lines = [f"#line 1 {_quoted(name)}", _DYNAMIC_SHARED.sub(_declare_dynamic_shared, source)]
    kernels = find_kernels(source)
    for kernel in kernels:
        lines += [f"#line {kernel.line} {_quoted(name)}", f"SIMT_KERNEL({kernel.name}, ({kernel.max_threads}))"]
    table = ", ".join(f"&simt_kernel_{kernel.name}" for kernel in kernels)
    return "\n".join((*lines, f"SIMT_MODULE({table})", ""))
