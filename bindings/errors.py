"""Errors that a person can act on: CUDA's name and text, the call, its arguments, and what was probably forgotten."""

# What a person who meets this status most often forgot. Statuses that explain themselves have no entry.
HINTS = {
    "CUDA_ERROR_OUT_OF_MEMORY": "lower --max-model-len or the number of prompts, or end other programs on the device",
    "CUDA_ERROR_INVALID_IMAGE": "the cubin is not for this device; delete the kernel cache folder and run again",
    "CUDA_ERROR_NO_BINARY_FOR_GPU": "the kernel was compiled for another architecture than this device's",
    "CUDA_ERROR_UNSUPPORTED_PTX_VERSION": "the driver is older than the compiler; load a cubin, or update the driver",
    "CUDA_ERROR_INVALID_VALUE": "an argument is out of its range: compare sizes, pointers and grid limits below",
    "CUDA_ERROR_INVALID_CONTEXT": "no context is current on this thread: open a Device on it first",
    "CUDA_ERROR_INVALID_HANDLE": "the stream, event, graph or module was destroyed before this call",
    "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES": "the block needs more registers or shared memory than one multiprocessor has",
    "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED": "this call can't be captured: move it out of `stream.capture()`",
    "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED": "an earlier call broke the capture: look for an error inside it",
    "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH": "the driver library does not match the kernel module: reboot after an update",
    "CUDA_ERROR_NO_DEVICE": "see what nvidia-smi lists, and whether CUDA_VISIBLE_DEVICES hides it",
    "CUDA_ERROR_STUB_LIBRARY": "libcuda.so.1 is the toolkit's stub: take its folder off LD_LIBRARY_PATH",
    "CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE": "take CUDA's compat folder off LD_LIBRARY_PATH, or update the driver",
    "CUDA_ERROR_NOT_FOUND": 'no such name in the module: is the kernel declared `extern "C" __global__`?',
    "CUBLAS_STATUS_NOT_INITIALIZED": "no context is current, or the device is out of memory",
    "CUBLAS_STATUS_INVALID_VALUE": "a dimension, stride or enum is out of its range",
    "CUBLAS_STATUS_NOT_SUPPORTED": "not offered for these types, or bf16 on this GPU (before sm_80): try --device cpu",
    "CUBLAS_STATUS_ARCH_MISMATCH": "not offered on this GPU: bf16 products may need sm_80; try --device cpu",
}

# After one of these every later call in the context fails too, so the launch before it is the one to look at.
STICKY = {
    "CUDA_ERROR_ILLEGAL_ADDRESS",
    "CUDA_ERROR_LAUNCH_FAILED",
    "CUDA_ERROR_MISALIGNED_ADDRESS",
    "CUDA_ERROR_ILLEGAL_INSTRUCTION",
    "CUDA_ERROR_INVALID_ADDRESS_SPACE",
    "CUDA_ERROR_INVALID_PC",
    "CUDA_ERROR_HARDWARE_STACK_ERROR",
    "CUDA_ERROR_ASSERT",
    "CUDA_ERROR_LAUNCH_TIMEOUT",
}


class CutawayError(Exception):
    """Base of every error that Cutaway raises on purpose. `str(error)` is one clear line."""


class DeviceError(CutawayError):
    """No usable device or library: no driver, no GPU, a missing wheel. Says what to install or which option to give."""


class CompileError(CutawayError):
    """A kernel did not compile. `log` holds the compiler's whole output."""

    def __init__(self, message: str, log: str = "") -> None:
        super().__init__(message)
        self.log = log


class CudaError(CutawayError):
    """A driver, NVRTC or cuBLAS call returned a status other than success.

    Attributes: `call` (the API's name), `name` (the status, e.g. `CUDA_ERROR_INVALID_VALUE`), `text` (CUDA's own
    explanation), `arguments` (spelled out), `hint`, `detail` (the CPU device's report, or the launch that came before).
    """

    def __init__(self, call: str, name: str, text: str, arguments: str, detail: str = "") -> None:
        self.call, self.name, self.text, self.arguments, self.detail = call, name, text, arguments, detail
        self.hint = HINTS.get(name, "")
        super().__init__(self._line())

    def _line(self) -> str:
        parts = [f"{self.call}({self.arguments}) failed: {self.name}"]
        if self.text:
            parts[0] += f" ({self.text})"
        if self.name in STICKY:
            parts.append("the context is dead: every later call fails too")
        return "; ".join(part for part in (*parts, self.detail, self.hint) if part)
