"""What the CPU device reads in, and adds to, the text of a `.cu`: its kernels, and its dynamic shared memory.

C++ has no `extern __shared__` and no way to list the kernels of a file, so a `.cu` and every `.cu` that it includes
become one text, with both taken care of. Everything else of CUDA is left to headers (`simt/`): the compiler sees the
text that NVRTC sees, line by line.
"""

import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bindings.cpu.instrument import instrumented

SIMT_HEADERS = Path(__file__).resolve().parent / "simt"
DEFAULT_MAX_THREADS = "1024"

_COMMENT_OR_STRING = re.compile(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', re.DOTALL)
_DYNAMIC_SHARED = re.compile(
    r"\bextern\s+__shared__\s+(?:(?:__align__|alignas)\s*\(\s*\d+\s*\)\s*)?(?P<type>[\w:\s]+?)\s*\b(?P<name>\w+)\s*\[\s*\]\s*;"
)
_INCLUDED_CU = re.compile(r'^[ \t]*#[ \t]*include[ \t]+"(?P<name>[^"\n]+\.cu)"[^\n]*$', re.MULTILINE)
_INCLUDED = re.compile(r'^[ \t]*#[ \t]*include[ \t]+"(?P<name>[^"\n]+\.cuh?)"[^\n]*$', re.MULTILINE)
_PRAGMA_ONCE = re.compile(r"^[ \t]*#[ \t]*pragma[ \t]+once[ \t]*$", re.MULTILINE)
_LINE_DIRECTIVE = re.compile(r"^#line (\d+) (.*)$", re.MULTILINE)
_KERNEL = re.compile(r'\bextern\s+"C"\s+__global__\b')
_NAME_BEFORE_ARGUMENTS = re.compile(r"(\w+)\s*\(")
_ATTRIBUTES = ("__launch_bounds__", "__align__", "__cluster_dims__", "__maxnreg__", "__block_size__")


@dataclass(frozen=True)
class KernelDeclaration:
    """A kernel's name, the C++ expression of the most threads of a block, and where in the text it is declared."""

    name: str
    max_threads: str
    position: int


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
    start = position
    max_threads = DEFAULT_MAX_THREADS
    while match := _NAME_BEFORE_ARGUMENTS.search(text, position):
        position = _closing_parenthesis(text, match.end() - 1)
        if match.group(1) == "__launch_bounds__":
            max_threads = _first_argument(text[match.end() : position])
        elif match.group(1) not in _ATTRIBUTES:
            return KernelDeclaration(match.group(1), max_threads, start)
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


def _line_directive(line: int, file: str) -> str:
    escaped = file.replace("\\", "\\\\").replace('"', '\\"')
    return f'#line {line} "{escaped}"'


def _with_included_kernels(source: str, name: str) -> str:
    """`source` under a #line directive, with the text of each `.cu` that it includes in the place of the #include."""

    def expand(match: re.Match[str]) -> str:
        path = (Path(name).parent / match["name"]).resolve()
        if not path.is_file():
            return match.group()  # the compiler says so, or finds it elsewhere
        text = _with_included_kernels(path.read_text(encoding="utf-8"), str(path))
        return f"{text}\n{_line_directive(_line_behind(match), name)}"

    return f"{_line_directive(1, name)}\n{_INCLUDED_CU.sub(expand, source)}"


def _line_behind(match: re.Match[str]) -> int:
    return match.string.count("\n", 0, match.end()) + 2


def with_all_included(source: str, name: str, folders: Sequence[Path]) -> str:
    """As `_with_included_kernels`, and the text of each `.cuh` too, found beside the file or in `folders`.

    What says `#pragma once` gets a guard that says the same of a text in the midst of another.
    """

    def expanded(text: str, name: str, within: tuple[Path, ...]) -> str:
        def expand(match: re.Match[str]) -> str:
            candidates = (folder / match["name"] for folder in (Path(name).parent, *folders))
            path = next((path.resolve() for path in candidates if path.is_file()), None)
            if path is None or path in within:
                return match.group()
            included = expanded(path.read_text(encoding="utf-8"), str(path), (*within, path))
            return f"{included}\n{_line_directive(_line_behind(match), name)}"

        once = _PRAGMA_ONCE.search(text)
        inner = f"{_line_directive(1, name)}\n{_INCLUDED.sub(expand, _PRAGMA_ONCE.sub('', text))}"
        guard = f"SIMT_INCLUDED_{zlib.crc32(name.encode()):08x}"
        return f"#ifndef {guard}\n#define {guard}\n{inner}\n#endif" if once and within else inner

    return expanded(source, name, ())


def _directive_for(text: str, position: int) -> str:
    """The #line directive of the line of `text` that `position` lies on."""
    *_, last = _LINE_DIRECTIVE.finditer(text, 0, position)
    line = int(last.group(1)) + text.count("\n", last.end(), position) - 1
    return f"#line {line} {last.group(2)}"


def to_host_source(source: str, name: str) -> str:
    """`source` as a C++ file that a host compiler takes after `simt.h`; messages name lines of the file `name`."""
    return _exported(_with_included_kernels(source, name))


def to_inspected_source(source: str, name: str, folders: Sequence[Path]) -> str:
    """As `to_host_source`, in the form that tells what one thread does. `folders` are searched for headers.

    Raises ValueError where brackets do not match.
    """
    return _exported(instrumented(with_all_included(source, name, folders)))


def _exported(text: str) -> str:
    """`text`, which begins with a #line directive, and behind it the table of its kernels."""
    kernels = find_kernels(text)
    exports = []
    for kernel in kernels:
        exports += [_directive_for(text, kernel.position), f"SIMT_KERNEL({kernel.name}, ({kernel.max_threads}))"]
    table = ", ".join(f"&simt_kernel_{kernel.name}" for kernel in kernels)
    return "\n".join((_DYNAMIC_SHARED.sub(_declare_dynamic_shared, text), *exports, f"SIMT_MODULE({table})", ""))
