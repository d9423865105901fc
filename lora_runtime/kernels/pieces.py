"""Segments of a step's rows may overlap: the stretches of rows between two of their ends."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol, TypeVar


class RowSegment(Protocol):
    """Something that the rows `start:end` take."""

    @property
    def start(self) -> int: ...
    @property
    def end(self) -> int: ...


S = TypeVar("S", bound=RowSegment)


def pieces(segments: Sequence[S]) -> Iterator[tuple[int, int, list[S]]]:
    """(start, end, segments that cover these rows, in their order), ascending; rows in no segment
    left out."""
    starting: dict[int, list[int]] = {}
    ending: dict[int, list[int]] = {}
    for i, segment in enumerate(segments):
        if segment.start < segment.end:
            starting.setdefault(segment.start, []).append(i)
            ending.setdefault(segment.end, []).append(i)
    active: set[int] = set()
    begun = 0
    for cut in sorted(starting.keys() | ending.keys()):
        if active:
            yield begun, cut, [segments[i] for i in sorted(active)]
        active.difference_update(ending.get(cut, ()))
        active.update(starting.get(cut, ()))
        begun = cut
