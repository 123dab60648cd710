"""Graphs: a capture turned into a list of operations, and its replay.

A graph's nodes are kept in the order in which they were captured. That is an order which all their dependencies allow,
so an eager stream runs them one after the other; a lazy one lines them up by their dependencies. Arguments were copied
at the capture; the memory that copies and products touch, and the code of kernels, are checked again at a launch if
anything was freed or unloaded since the last one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from cuda.bindings.driver import CUgraph, CUgraphExec, CUgraphNode, CUresult, CUstreamCaptureMode

from bindings.cpu import activity, fences
from bindings.cpu.context import INVALID_VALUE, NOT_SUPPORTED, Failure, Table, entry_point, state
from bindings.cpu.operations import Nodes, Operation, Span
from bindings.cpu.streams import UNSUPPORTED, Capture, find_stream, submit

# Flags that change nothing here: there are no allocation nodes and no priorities. A device can't launch graphs here.
ACCEPTED_FLAGS = 1 | 2 | 8  # AUTO_FREE_ON_LAUNCH, UPLOAD, USE_NODE_PRIORITY


@dataclass
class Graph:
    """Captured operations, and for each the numbers of those that it waits for."""

    operations: list[Operation]
    dependencies: list[frozenset[int]]
    node_handles: list[CUgraphNode] = field(default_factory=list)


class Executable(Operation):
    """A graph made ready to launch; as an operation it is one node of an outer graph."""

    name = "graph"

    def __init__(self, graph: Graph) -> None:
        self._operations = list(graph.operations)
        self._dependencies = list(graph.dependencies)
        self._runs: list[Callable[[], None]] = [operation.run for operation in graph.operations]
        self._spans = [span for operation in graph.operations for span in operation.spans()]
        self._checked_epoch = -1

    def check(self) -> None:
        if self._checked_epoch != state.epoch:
            for operation in self._operations:
                operation.check()
            self._checked_epoch = state.epoch

    def spans(self) -> Sequence[Span]:
        return self._spans

    def nodes(self) -> Nodes:
        return list(zip(self._operations, self._dependencies, strict=True))

    def run(self) -> None:
        if fences.after_every_operation() or activity.watched():
            call, within = activity.origin()
            for node, operation in enumerate(self._operations):
                activity.run(operation, activity.Origin(call, node if within is None else within))
                fences.after_operation(operation.name)
        else:
            for run in self._runs:
                run()


graphs: Table[Graph] = Table(CUgraph, "graph", INVALID_VALUE)
executables: Table[Executable] = Table(CUgraphExec, "executable graph", INVALID_VALUE)
nodes: Table[Operation] = Table(CUgraphNode, invalid=INVALID_VALUE)


@entry_point()
def cuStreamBeginCapture(hStream: Any, mode: CUstreamCaptureMode) -> None:
    """(status,). The default stream can't capture; no stream can twice."""
    stream = find_stream(hStream)
    if stream.is_legacy:
        raise Failure(UNSUPPORTED)
    if stream.capture:
        raise Failure(CUresult.CUDA_ERROR_ILLEGAL_STATE)
    try:
        stream.capture = Capture(stream, CUstreamCaptureMode(mode))
    except ValueError as error:
        raise Failure(INVALID_VALUE) from error


@entry_point(values=1)
def cuStreamEndCapture(hStream: Any) -> CUgraph:
    """(status, graph). Must be the stream, and unless relaxed the thread, that began."""
    stream = find_stream(hStream)
    capture = stream.capture
    if capture is None:
        raise Failure(CUresult.CUDA_ERROR_ILLEGAL_STATE)
    if capture.origin is not stream:
        raise Failure(CUresult.CUDA_ERROR_STREAM_CAPTURE_UNMATCHED)
    if not capture.may_end_here:
        raise Failure(CUresult.CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD)
    status = capture.end_status()
    capture.end()
    if status is not None:
        raise Failure(status)
    return graphs.add(Graph(capture.operations, capture.dependencies))


@entry_point(values=1)
def cuGraphInstantiate(hGraph: Any, flags: int) -> CUgraphExec:
    """(status, executable). The graph may be destroyed afterwards."""
    graph = graphs.get(hGraph)
    if int(flags) & ~ACCEPTED_FLAGS:
        raise Failure(NOT_SUPPORTED)
    return executables.add(Executable(graph))


@entry_point()
def cuGraphLaunch(hGraphExec: Any, hStream: Any) -> None:
    """(status,). In a capture the whole graph becomes one node."""
    submit(hStream, executables.get(hGraphExec))


@entry_point()
def cuGraphDestroy(hGraph: Any) -> None:
    """(status,)."""
    for handle in graphs.remove(hGraph).node_handles:
        nodes.remove(handle)


@entry_point()
def cuGraphExecDestroy(hGraphExec: Any) -> None:
    """(status,)."""
    executables.remove(hGraphExec)


@entry_point(values=2)
def cuGraphGetNodes(hGraph: Any, numNodes: int = 0) -> tuple[list[CUgraphNode], int]:
    """(status, nodes, count): up to `numNodes` node handles; none and the full count when `numNodes` is 0."""
    graph = graphs.get(hGraph)
    if not graph.node_handles:
        graph.node_handles = [nodes.add(operation) for operation in graph.operations]
    if not numNodes:
        return [], len(graph.node_handles)
    return graph.node_handles[:numNodes], min(numNodes, len(graph.node_handles))
