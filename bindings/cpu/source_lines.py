"""From the address of an instruction to the line of the `.cu` that it was compiled from."""

import shutil
import subprocess
import tempfile

from bindings.cpu.kernel_source import SIMT_HEADERS

TOOLS = ("addr2line", "llvm-addr2line")  # binutils comes with g++, the other with clang


def source_line(image: bytes, offset: int) -> str | None:
    """`file:line` of the instruction `offset` bytes into the loaded shared object `image`; None if it can't be told.

    Where functions were inlined into one another, the innermost of a `.cu`; if there is none, the innermost that is
    not the CPU device's own.
    """
    tool = next(filter(None, map(shutil.which, TOOLS)), None)
    if tool is None:
        return None
    with tempfile.NamedTemporaryFile(prefix="cutaway-", suffix=".so") as file:
        file.write(image)
        file.flush()
        command = [tool, "--inlines", f"--exe={file.name}", hex(offset)]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    places = [line.split(" (discriminator")[0] for line in done.stdout.splitlines()]
    known = [place for place in places if not place.startswith("??") and not place.endswith((":0", ":?"))]
    kernels = [place for place in known if place.rpartition(":")[0].endswith(".cu")]
    return next((place for place in kernels + known if not place.startswith(str(SIMT_HEADERS))), None)
