"""What each request did in each step of a run: prefill, decode, wait, or wait again after a preemption."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from engine.request import Request
    from engine.scheduler import Batch, Piece

Kind = Literal["prefill", "decode", "waiting", "preempted"]


@dataclass(frozen=True)
class Cell:
    """A request in one step. `tokens`: how many of its tokens run; 0 while it waits."""

    step: int
    kind: Kind
    tokens: int = 0


@dataclass
class Row:
    """A request: its sizes in tokens, and what it did from its arrival to its last token."""

    prompt_len: int
    output_len: int
    cells: list[Cell] = field(default_factory=list)
    request: Request | None = None  # from its first step to its last one


@dataclass
class Timeline:
    """The first `max_rows` requests in the first `max_steps` steps; what lies beyond is only counted.

    running: (decodes, prefills) of each step kept, of all requests. num_seats: sequences that may run at once.
    """

    num_seats: int
    max_rows: int
    max_steps: int
    rows: dict[int, Row] = field(default_factory=dict)  # by the engine's number of a request
    running: list[tuple[int, int]] = field(default_factory=list)
    num_requests: int = 0
    num_steps: int = 0
    seats_taken: int = 0  # sum over the steps
    _open: set[int] = field(default_factory=set)  # numbers of rows that have not come to their end

    def arrives(self, number: int, prompt_len: int, output_len: int) -> None:
        """A request was added, in time for the next step."""
        self.num_requests += 1
        if len(self.rows) < self.max_rows:
            self.rows[number] = Row(prompt_len, output_len)
            self._open.add(number)

    def runs(self, batch: Batch) -> None:
        """A step was scheduled: the engine's `watch`."""
        step, self.num_steps = self.num_steps, self.num_steps + 1
        self.seats_taken += len(batch)
        if step >= self.max_steps:
            return
        cells = [(piece.request, Cell(step, _kind(piece), piece.stop - piece.start)) for piece in batch.pieces]
        for request, cell in cells:
            self._add(request, cell)
        decodes = sum(cell.kind == "decode" for _, cell in cells)
        self.running.append((decodes, len(cells) - decodes))
        for number in sorted(self._open):
            self._pass(self.rows[number], step)
        self._open -= {number for number in self._open if self._has_ended(self.rows[number])}

    def _add(self, request: Request, cell: Cell) -> None:
        row = self.rows.get(request.answer.index)
        if row is not None:
            row.request = request
            row.cells.append(cell)

    def _pass(self, row: Row, step: int) -> None:
        """A step without tokens of this request: in the queue, without its pages, or left out by the token budget."""
        if row.cells and row.cells[-1].step == step:
            return
        preempted = row.request is not None and row.request.row < 0
        row.cells.append(Cell(step, "preempted" if preempted else "waiting"))

    def _has_ended(self, row: Row) -> bool:
        request = row.request
        return request is not None and (request.all_scheduled or request.answer.finished)


def _kind(piece: Piece) -> Kind:
    """The last token of a prompt may run alone, through the kernels of a decode: it is a piece of the prompt still."""
    return "decode" if piece.stop - piece.start == 1 and piece.start >= piece.request.num_prompt_tokens else "prefill"
