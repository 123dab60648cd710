"""What a GPU's kernels are compiled for."""

from collections.abc import Sequence

from bindings.errors import DeviceError

# Turing: the first with ldmatrix, and the oldest that NVRTC 13 compiles for.
OLDEST = 75
# From Hopper on there are "a" targets, which open what only this architecture has (wgmma, setmaxnreg), and kernels that
# may start before the one ahead of them has ended.
HOPPER = 90


def target(name: str, capability: int, known: Sequence[int], compiler: str) -> str:
    """NVRTC's name of the architecture to compile for, as "sm_86" or "sm_90a".

    Arguments: the GPU's name; its compute capability as major * 10 + minor; those that NVRTC compiles for
    (nvrtcGetSupportedArchs); and NVRTC's name and version, for errors. A GPU newer than NVRTC runs what is compiled
    for an older one of its major version, though not for an "a" target. Raises DeviceError when there is none.
    """
    said = f"{name} has compute capability {capability // 10}.{capability % 10}"
    if capability < OLDEST:
        raise DeviceError(f"{said}, and the kernels need {OLDEST // 10}.{OLDEST % 10} or newer; run with --device cpu")
    if capability in known:
        return f"sm_{capability}a" if capability >= HOPPER else f"sm_{capability}"
    older = [other for other in known if other // 10 == capability // 10 and other < capability]
    if not older:
        raise DeviceError(f"{said}, which {compiler} does not know: install a newer one, or run with --device cpu")
    return f"sm_{max(older)}"
