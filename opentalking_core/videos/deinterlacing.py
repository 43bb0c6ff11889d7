"""Full pictures out of interlaced ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from types import ModuleType

    from av.filter import Graph
    from av.video.frame import VideoFrame as DecodedFrame


def deinterlaced(av: ModuleType, frames: Iterable[DecodedFrame]) -> Iterator[DecodedFrame]:
    """Yield the frames. From the first interlaced one on, interlaced frames get the missing lines from FFmpeg's bwdif.

    Args:
        av: PyAV.
        frames: in the order in which they are shown.
    """
    graph, kind = None, None
    for frame in frames:
        if graph is not None and _kind(frame) != kind:
            yield from _filtered(av, graph, None)
            graph = None
        if graph is None and frame.interlaced_frame:
            graph, kind = _make_graph(av, frame), _kind(frame)
        if graph is None:
            yield frame
        else:
            yield from _filtered(av, graph, frame)
    if graph is not None:
        yield from _filtered(av, graph, None)


def _kind(frame: DecodedFrame) -> tuple[object, ...]:
    """Return what all frames in a filter must have in common."""
    return frame.width, frame.height, frame.format.name, frame.time_base


def _make_graph(av: ModuleType, frame: DecodedFrame) -> Graph:
    graph = cast("Graph", av.filter.Graph())
    graph.threads = 1
    graph.link_nodes(
        graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base),
        graph.add("bwdif", mode="send_frame", deint="interlaced"),
        graph.add("buffersink"),
    )
    graph.configure()
    return graph


def _filtered(av: ModuleType, graph: Graph, frame: DecodedFrame | None) -> Iterator[DecodedFrame]:
    """Push a frame, or None at the end, and yield what the filter has finished: it keeps one frame back."""
    graph.vpush(frame)
    while True:
        try:
            yield graph.vpull()
        except (av.error.BlockingIOError, av.error.EOFError):
            return
