"""What each call does, and why the engine makes it here: `--explain` says it under the first of a kind."""

from __future__ import annotations

from bindings.trace import Event
from engine import lab_ops, ops
from tools.trace.events import is_product, product_role
from tools.trace.row_major import row_major_trick

# Every entry point that bindings/ goes through the door for.
CALLS = {
    "cuInit": "Wakes the driver up; until then every other driver call is refused.",
    "cuDriverGetVersion": "Which CUDA the driver knows: an older one can't load what a newer compiler made.",
    "cuDeviceGetCount": "How many devices there are; none means that the engine falls back to the CPU device.",
    "cuDeviceGet": "A handle for device number 0, the one that the engine uses.",
    "cuDeviceGetName": "The device's name, for people to read.",
    "cuDeviceTotalMem": "How much memory the device has: the KV cache is sized by what the weights leave of it.",
    "cuDeviceGetAttribute": (
        "A number about the hardware: how many multiprocessors, how much shared memory a block may have, which"
        " architecture to compile for. Launch geometry follows from these."
    ),
    "cuDevicePrimaryCtxRetain": (
        "The device's primary context, which owns all memory and modules of this process there; cuBLAS uses the same"
        " one, so both see each other's buffers."
    ),
    "cuCtxSetCurrent": "Makes the context this thread's own: driver calls take the device from it, not as an argument.",
    "cuCtxGetCurrent": "Which context this thread has; it does next to nothing, so bench door times the door by it.",
    "cuCtxSynchronize": (
        "Waits for everything that was given to the device; before memory is freed, so that nothing still runs on it,"
        " and so that a late failure shows here."
    ),
    "cuDevicePrimaryCtxRelease": "Lets go of the context; what was left on the device goes with it.",
    "cuStreamCreate": (
        "A queue of work: what is given to it runs in order, while the host goes on. Non-blocking: it does not wait"
        " for the default stream, which nobody here uses."
    ),
    "cuStreamSynchronize": (
        "Waits until this queue is empty: here the host needs a result, or wants to reuse the memory that a copy"
        " reads from."
    ),
    "cuStreamWaitEvent": "Lets this queue wait for a point of another one, without the host waiting.",
    "cuStreamDestroy": "Gives the queue back.",
    "cuStreamBeginCapture": (
        "From here on work given to the stream is written down instead of run: a decode step launches the same"
        " kernels with the same addresses each time, so it is recorded once and replayed."
    ),
    "cuStreamEndCapture": "The end of the recording; its result is a graph of all that was launched in between.",
    "cuGraphInstantiate": (
        "Turns the recorded graph into one that can be launched: checked and laid out for the device once, instead of"
        " at each launch."
    ),
    "cuGraphLaunch": (
        "Replays all kernels of a decode step with one call: the host would need longer to launch hundreds of small"
        " kernels one by one than the device needs to run them."
    ),
    "cuGraphExecDestroy": "Frees the launchable graph.",
    "cuGraphDestroy": "Frees the recording that it was made from.",
    "cuEventCreate": (
        "A marker that can be put into a stream; without a clock, which makes it cheaper, where it only says that"
        " work is done."
    ),
    "cuEventRecord": "Puts the marker behind the work given so far, so that somebody can wait for exactly that much.",
    "cuEventSynchronize": (
        "The host waits for the marker: for the tokens of a step, or before it overwrites pinned memory that a copy"
        " may still read."
    ),
    "cuEventElapsedTime": "The device time between two markers: how kernels are timed.",
    "cuEventDestroy": "Gives the marker back.",
    "cuMemGetInfo": "How much device memory is free now: what is left after the weights becomes KV pages.",
    "cuMemAlloc": (
        "Device memory. It is slow and may wait for the device, so all of it is taken before the first step, and none"
        " while tokens are made."
    ),
    "cuMemFree": "Returns device memory.",
    "cuMemHostAlloc": (
        "Pinned host memory, which the system may not move: only from there can a copy run while the host goes on."
    ),
    "cuMemFreeHost": "Returns pinned host memory.",
    "cuMemcpyHtoDAsync": (
        "Host to device: weights while loading; in a step the one small buffer that says which tokens, at which"
        " positions, in which pages."
    ),
    "cuMemcpyDtoHAsync": "Device to host: of a whole step only the chosen token ids come back, four bytes a sequence.",
    "cuMemcpyDtoDAsync": "From one place of device memory to another, at device speed.",
    "cuMemsetD8Async": (
        "Sets every byte: memory that a kernel may read before anybody wrote it must not hold what was left there."
    ),
    "cuModuleLoadData": "Loads compiled code onto the device: one .cu file, specialised for this model's sizes.",
    "cuModuleGetFunction": "The handle of one kernel in the loaded code, by the name in the .cu file.",
    "cuModuleUnload": "Takes the code off the device again.",
    "cuFuncGetParamInfo": (
        "Where the compiler put parameter i of the kernel. The engine holds it against its own list, since a wrong"
        " argument list crashes inside the driver; CUDA_ERROR_INVALID_VALUE says that there is no parameter i."
    ),
    "cuFuncGetAttribute": (
        "What the compiled kernel needs: registers, shared memory, spilled bytes, threads it can have."
    ),
    "cuFuncSetAttribute": "Allows the kernel more than 48 KB of shared memory a block, which must be asked for.",
    "cuLaunchKernel": (
        "Queues a kernel: grid x block threads run the function with these arguments. It returns at once; the kernel"
        " runs when the work before it on the stream is done."
    ),
    "cuLaunchKernelEx": (
        "As cuLaunchKernel, with attributes: this kernel may start while the one before it still ends, and waits"
        " inside for its results (programmatic dependent launch)."
    ),
    "nvrtcVersion": "Which compiler this is; it goes into the key of the kernel cache.",
    "nvrtcGetSupportedArchs": "For which architectures the compiler can make code, to choose this device's own.",
    "nvrtcCreateProgram": (
        "Hands the text of a .cu file to the compiler: kernels are compiled on this machine, when they are first"
        " needed."
    ),
    "nvrtcCompileProgram": "Compiles it to machine code for this device, with the model's sizes as constants.",
    "nvrtcGetCUBINSize": "How many bytes of machine code there are.",
    "nvrtcGetCUBIN": "The machine code; it is kept on disk for the next run.",
    "nvrtcGetPTXSize": "How long the PTX is.",
    "nvrtcGetPTX": "The PTX, for people to read; no device is given it.",
    "nvrtcGetProgramLogSize": "How long the compiler's messages are.",
    "nvrtcGetProgramLog": "The compiler's messages: errors with their lines; else registers and spills.",
    "nvrtcDestroyProgram": "Frees the compiler's copy.",
    "cublasCreate": "A handle to NVIDIA's library of matrix products, where most of a model's arithmetic goes.",
    "cublasDestroy": "Gives the handle back.",
    "cublasGetVersion": "Which cuBLAS this is, for reports.",
    "cublasSetStream": "Products are to queue on the engine's own stream, in order with its kernels.",
    "cublasSetWorkspace": (
        "Gives cuBLAS scratch memory of ours, so that it never allocates: an allocation can't be captured into a graph."
    ),
    "cublasSetMathMode": "Forbids sums in bf16: where cuBLAS splits a long sum into parts, these stay float32.",
    "cublasGemmEx": "One matrix product; most of a model's arithmetic, and of its weights, goes through this call.",
    "cublasGemmStridedBatchedEx": "Many products of the same shape in one call.",
}

# Why the engine runs each operation; what it computes says its own entry in engine/ops.py.
OPS = {
    "copy_pages": "a page that several sequences share is about to be written to by one of them",
    "feed_tokens": "the next step is launched before the host has read the last token, which never left the device",
    "embedding": (
        "the model computes with vectors, and this is where token ids become some; its gather of rows also picks the"
        " last row of each prompt for the vocabulary"
    ),
    "rmsnorm": "without it activations would grow from layer to layer; the first norm has nothing to add yet",
    "add_rmsnorm": "adding the sublayer's output and normalising read the same rows, so one kernel does both",
    "rope_kv_write": (
        "attention compares positions by angles, and later tokens will read these keys and values from the pages"
        " instead of computing them anew"
    ),
    "prefill_attention": (
        "a prompt's tokens all look back at once, so tiles of queries meet tiles of keys on tensor cores"
    ),
    "decode_attention": (
        "one token looks back over the whole sequence, which is all reading: the sequence is split so that many"
        " multiprocessors read at once"
    ),
    "combine_splits": "each split of a sequence has a softmax of its own, and this weighs them into one",
    "silu_mul": "the gate decides, number by number, how much of the other half goes on to the down projection",
    "argmax": (
        "at temperature 0 the likeliest token is the answer, and choosing it here saves copying all logits to the host"
    ),
    "edit_logits": "this request has a bias, bans or penalties, which touch few of the vocabulary's tokens",
    "allow_logits": "this request allows only some tokens",
    "truncate_logits": "this request samples from the likeliest tokens alone",
    "gumbel_sample": (
        "above temperature 0 a token is drawn; the largest of logit plus Gumbel noise is a draw from the softmax,"
        " without ever computing it"
    ),
    "logprobs": "this request wants to know how probable the tokens were",
    "random_normal": "a benchmark needs weights of the right size, and no download",
}

ROLES = {
    "qkv": (
        "Queries, keys and values of all heads in one product: three weight matrices were joined when they were"
        " loaded, since one large product is faster than three small ones."
    ),
    "o": "The output projection: what the heads found becomes an update of the residual stream.",
    "gate_up": "Both halves of the MLP's first matrix in one product: the gate, and what it gates.",
    "down": "The MLP's way back to the hidden size; its result is the layer's second update.",
    "embed": "The scores of every token of the vocabulary; this model shares the matrix with its embedding.",
    "lm_head": "The scores of every token of the vocabulary, for the last position of each sequence alone.",
}


def _op_words(event: Event) -> str:
    name = event["op"]
    op = ops.ALL.get(name) or lab_ops.ALL.get(name)
    summary = op.summary if op else "a kernel that no operation of the engine describes"
    rung = "a rung of the ladder to the production kernel" if name in lab_ops.ALL else ""
    why = OPS.get(name, rung)
    return f"{name}: {summary}." + (f" Why here: {why}." if why else "")


def _product_words(event: Event) -> str:
    role = product_role(event)
    return f"{role}: " + ROLES.get(role, "a matrix product that is none of the model's own.")


class Explainer:
    """Gives the sentences of a call that have not been given before."""

    def __init__(self) -> None:
        self._given: set[str] = set()

    def __call__(self, event: Event) -> list[str]:
        """What to say under this call: on the API, on the operation or the product, on the swapped operands."""
        said = [] if event["kind"] == "replayed" else [(event["call"], self._of_call)]
        if is_product(event):
            said += [(f"product {product_role(event)}", _product_words)]
            said += [(f"trick {event['sizes']['transpose_b']}", row_major_trick)]
        elif "op" in event:
            said += [(f"op {event['op']}", _op_words)]
        new = [(key, words) for key, words in said if key not in self._given]
        self._given.update(key for key, _ in new)
        return [words(event) for _, words in new]

    @staticmethod
    def _of_call(event: Event) -> str:
        return f"{event['call']}: {CALLS.get(event['call'], 'a call that has no explanation yet.')}"
