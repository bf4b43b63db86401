"""Running a decoder without its key-value cache, which would grow, or remember tokens between two calls of one layer."""

from __future__ import annotations

from torch import nn

__all__ = ["uncached"]


def uncached(model: nn.Module) -> dict[str, bool]:
    """Arguments that keep a model which would cache from doing so; none for one that would not."""
    return {"use_cache": False} if getattr(getattr(model, "config", None), "use_cache", False) else {}
