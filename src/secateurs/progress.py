"""``Track``: progress over an iterable. The command line draws a bar, the library stays silent."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar

__all__ = ["Track", "silent"]

T = TypeVar("T")


class Track(Protocol):
    """Yields the items, and shows under ``title`` how many of ``total`` are done."""

    def __call__(self, items: Iterable[T], title: str, total: int | None = None) -> Iterable[T]: ...


def silent(items: Iterable[T], title: str, total: int | None = None) -> Iterator[T]:
    """Shows nothing."""
    yield from items
