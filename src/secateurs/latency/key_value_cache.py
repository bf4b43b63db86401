"""Key-value caches of transformers: fresh copies, so that a timed step starts from the same cache, and their bytes.

A cache is an object with ``update`` and ``get_seq_length``, which holds one entry per layer. An entry replaces its tensors
when it grows, and never writes into them. A copy may therefore share them.
"""

from __future__ import annotations

from typing import Any, TypeVar

from torch import Tensor

__all__ = ["cache_bytes", "fresh_copy", "is_cache"]

Cache = TypeVar("Cache")


def is_cache(value: Any) -> bool:
    """Whether a value is a key-value cache."""
    return hasattr(value, "get_seq_length") and hasattr(value, "update")


def fresh_copy(cache: Cache) -> Cache:
    """A copy that shares the tensors of a cache. What is written into one of the two is not seen in the other.

    Args:
        cache: key-value cache, or ``None``, which is returned.
    """
    if cache is None:
        return cache
    copied = _shallow(cache)
    for name, value in vars(cache).items():
        if isinstance(value, list):
            setattr(copied, name, [_shallow(entry) if hasattr(entry, "__dict__") else entry for entry in value])
        elif isinstance(value, dict):
            setattr(copied, name, dict(value))
        elif is_cache(value):
            setattr(copied, name, fresh_copy(value))
    return copied


def _shallow(value: Any) -> Any:
    """``copy.copy`` for an object with a ``__dict__``; ten times as fast, since it is part of what is timed."""
    copied = object.__new__(type(value))
    copied.__dict__.update(value.__dict__)
    return copied


def cache_bytes(cache: Any) -> int:
    """Bytes of the keys and values in a cache.

    Args:
        cache: key-value cache, or ``None``: 0 bytes.
    """
    entries = getattr(cache, "layers", None) or []
    return sum(
        tensor.numel() * tensor.element_size()
        for entry in entries
        for tensor in (entry.keys, entry.values)
        if isinstance(tensor, Tensor)
    )
