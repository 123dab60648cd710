"""Commands about the paged KV cache: who holds which page, and where the keys and values of a token lie."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

from tools.trace.debugger.command import Command, nothing_more
from tools.trace.debugger.errors import CommandError
from tools.trace.debugger.kv_place import KvPlace, find_place, place_lines
from tools.trace.debugger.labels import number_of
from tools.trace.debugger.pool import batch_lines, grid_lines, table_lines

if TYPE_CHECKING:
    from tools.trace.debugger.session import Debugger

SHOWN = 6  # values of a row


def batch(session: Debugger, rest: str) -> None:
    nothing_more("batch", rest)
    for line in batch_lines(session.pool):
        session.write(line)


def pages(session: Debugger, rest: str) -> None:
    nothing_more("pages", rest)
    for line in grid_lines(session.pool, session.console.screen):
        session.write(line)


def table(session: Debugger, rest: str) -> None:
    for line in table_lines(session.pool, session.pool.request(rest)):
        session.write(line)


def kv(session: Debugger, rest: str) -> None:
    found = re.fullmatch(r"(\d+)(?:\s+(?:request\s+)?(\d+))?(?:\s+layer\s+(\d+))?", rest)
    if found is None:
        raise CommandError("write it as in: kv 17, kv 17 request 2, kv 17 layer 3, kv 17 request 2 layer 3")
    token, request, layer = int(found[1]), session.pool.request(found[2] or ""), found[3]
    here = number_of(session.event, "layer") or 0
    place = find_place(session.pool, session.layout, token, request, here if layer is None else int(layer))
    for line in place_lines(place, request):
        session.write(line)
    session.write()
    for line in written_lines(session, place, request):
        session.write(line)


def written_lines(session: Debugger, place: KvPlace, request: int) -> list[str]:
    """What lies there, and whether it is the token's already."""
    if place.token >= session.pool.computed.get(request, 0):
        return ["  no step has computed this token yet: what lies there is not its"]
    lines = []
    if place.token in session.pool.now(request):
        lines = [f"  this step computes the token: rope_kv_write of layer {place.layer} writes what lies there"]
        if _writes(session, place.layer):
            lines = ["  this call writes the token: until it is made (out makes it) what lies there is not its"]
    for word, plane in place.planes():
        row = place.row(plane)
        values = session.memory.read(row, (slice(0, SHOWN),))
        lines.append(f"  {word} head 0 = {np.array2string(values, precision=5)[:-1]} ...]")
    return lines


def _writes(session: Debugger, layer: int) -> bool:
    """Whether the program stands before the call that writes the keys and values of this layer."""
    event = session.event
    return event.get("op") == "rope_kv_write" and not session.has_returned and number_of(event, "layer") == layer


COMMANDS = (
    Command("batch", "who runs in this step", batch),
    Command("pages", "the pages of the KV cache, by who holds them", pages),
    Command("table [REQUEST]", "the block table of a sequence", table, ("t",)),
    Command("kv TOKEN [request R] [layer L]", "where the keys and values of a token lie, and how that is found", kv),
)
