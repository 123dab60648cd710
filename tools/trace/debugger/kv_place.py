"""Where the keys and values of one token lie in device memory, with the arithmetic that finds them.

All pages are one buffer, `kv_pages` bf16[2 L, P, NKV, B, D] (engine/models/llama.py): the keys of layer 0, its values,
the keys of layer 1, ... The layout is read off an operation that uses the pages; the page of a token comes from its
sequence's block table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bindings.tensor import Tensor
from tools.trace.debugger.device_memory import Region
from tools.trace.debugger.errors import CommandError
from tools.trace.debugger.pool import Pool

BUFFER = "kv_pages"


@dataclass(frozen=True)
class Layout:
    """The buffer of all pages as a tensor of five axes."""

    pages: Region

    @classmethod
    def of(cls, operands: Mapping[str, Tensor]) -> Layout | None:
        """Read off the operands of a call: one layer's keys or values, or all pages. None where there are none."""
        for tensor in operands.values():
            if tensor.buffer.name == BUFFER and len(tensor.shape) in (4, 5):
                one = tensor.shape[-4:]
                planes = tensor.buffer.nbytes // (Tensor(tensor.buffer, tensor.dtype, one).nbytes)
                return cls(Region(BUFFER, tensor.buffer.address, tensor.dtype, (planes, *one)))
        return None

    @property
    def layers(self) -> int:
        """Of the model."""
        return self.pages.shape[0] // 2


@dataclass(frozen=True)
class KvPlace:
    """One token of one request in one layer."""

    layout: Layout
    token: int
    layer: int
    page: int
    page_size: int

    @property
    def offset(self) -> int:
        """The token's row in its page."""
        return self.token % self.page_size

    @property
    def slot(self) -> int:
        """Its row among all pages: what slot_mapping says of it."""
        return self.page * self.page_size + self.offset

    def row(self, plane: int, head: int = 0) -> Region:
        """The D values of one head; plane 2 * layer are keys, 2 * layer + 1 values."""
        region, rest = self.layout.pages.narrowed((plane, self.page, head, self.offset))
        assert not rest
        return region

    def planes(self) -> tuple[tuple[str, int], ...]:
        """("K", 2 * layer), ("V", 2 * layer + 1)."""
        return ("K", 2 * self.layer), ("V", 2 * self.layer + 1)


def find_place(pool: Pool, layout: Layout | None, token: int, request: int, layer: int) -> KvPlace:
    """Where a token lies. Raises CommandError where that is not known, or there is no such token or layer."""
    size = pool.known_step()["page_size"]
    table = pool.tables[request]
    if not 0 <= token < len(table) * size:
        raise CommandError(f"request {request} has pages for tokens 0 to {len(table) * size - 1}, not for {token}")
    if layout is None:
        raise CommandError("no call has used kv_pages yet: go to one by tbreak op rope_kv_write, then continue")
    if not 0 <= layer < layout.layers:
        raise CommandError(f"the model has layers 0 to {layout.layers - 1}, not {layer}")
    return KvPlace(layout, token, layer, table[token // size], size)


def place_lines(place: KvPlace, request: int) -> list[str]:
    """The arithmetic, a line a step."""
    size, number, pages = place.page_size, place.token // place.page_size, place.layout.pages
    planes, count, heads, _, dim = pages.shape
    name = f"token {place.token} of request {request}"
    lines = [
        f"{name}: its sequence's block table says the page, its position says the row in it",
        f"  page   = table[{place.token} // {size}] = table[{number}] = {place.page}",
        f"  offset = {place.token} % {size} = {place.offset}",
        f"  slot   = page * {size} + offset = {place.slot}   (what slot_mapping says of this token)",
        f"  {pages}: {planes // 2} layers x (K, V), {count} pages, {heads} KV heads, {size} tokens, head dim {dim}",
    ]
    for word, plane in place.planes():
        lines += ["", *_plane_lines(place, word, plane)]
    return lines


def _plane_lines(place: KvPlace, word: str, plane: int) -> list[str]:
    pages, row = place.layout.pages, place.row(plane)
    _, count, heads, size, dim = pages.shape
    behind = row.address - pages.address
    item = pages.dtype.itemsize
    index = f"2 * {place.layer}{' + 1' if word == 'V' else ''} = {plane}"
    return [
        f"  {word} of layer {place.layer}: plane {index}, so kv_pages[{plane}, {place.page}, head, {place.offset}]",
        f"    head 0 at kv_pages+{behind:#x} = {row.address:#x}: {row.dtype.name}[{dim}]",
        f"    {behind:#x} = ((({plane} * {count} + {place.page}) * {heads} + 0) * {size} + {place.offset}) * {dim}"
        f" * {item} bytes; each further head {size} * {dim} * {item} = {size * dim * item} bytes on",
    ]
