"""Windows: runs of groups whose matrices fit into memory together, so that memory does not grow with the depth of a model."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from secateurs.structure.structure import Group

__all__ = ["WINDOW_BYTES", "windows"]

WINDOW_BYTES = 0.625 * 2.0**30
"""Memory for the matrices of all groups of a window: the moments of twelve layers of the width of BERT-base."""


def windows(
    groups: Iterable[Group], bytes_of: Callable[[Group], float], limit: float = WINDOW_BYTES
) -> list[tuple[Group, ...]]:
    """Consecutive groups, as many in each window as fit into ``limit``, and at least one.

    Args:
        groups: the groups, in data order.
        bytes_of: bytes of the matrices of a group.
        limit: bytes of a window.
    """
    found: list[list[Group]] = []
    used = 0.0
    for group in groups:
        own = bytes_of(group)
        if found and used + own <= limit:
            found[-1].append(group)
            used += own
        else:
            found.append([group])
            used = own
    return [tuple(window) for window in found]
