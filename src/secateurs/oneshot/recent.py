"""``Recent``: what was computed last, as much of it as fits into memory."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

__all__ = ["Recent"]

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Recent(Generic[K, V]):
    """Remembers values, and forgets those used longest ago when they exceed the memory. One value is always kept.

    Args:
        bytes_of: bytes of a value.
        limit: bytes of all values.
    """

    def __init__(self, bytes_of: Callable[[V], float], limit: float) -> None:
        self.bytes_of, self.limit = bytes_of, limit
        self._values: dict[K, V] = {}  # used longest ago first
        self._used = 0.0

    def get(self, key: K, make: Callable[[], V]) -> V:
        """The value of a key; ``make`` makes it where it is not remembered."""
        if key in self._values:
            self._values[key] = value = self._values.pop(key)
            return value
        value = make()
        self._values[key] = value
        self._used += self.bytes_of(value)
        while self._used > self.limit and len(self._values) > 1:
            self._used -= self.bytes_of(self._values.pop(next(iter(self._values))))
        return value
