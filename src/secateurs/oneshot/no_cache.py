"""Running a decoder without its key-value cache, which would keep tokens between two calls of the same layer."""

from __future__ import annotations

from torch import nn

__all__ = ["no_cache"]


def no_cache(model: nn.Module) -> dict[str, bool]:
    """The forward arguments that switch the cache of a model off; empty for a model without a cache."""
    return {"use_cache": False} if getattr(getattr(model, "config", None), "use_cache", False) else {}
