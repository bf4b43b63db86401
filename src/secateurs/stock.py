"""Stock classes: those whose code is there without a checkpoint's own, in transformers or (adaptive models) in Secateurs."""

from __future__ import annotations

import importlib
from typing import Any

__all__ = ["is_own", "is_stock", "named", "stock_class"]

OWN = "secateurs.adaptive_lm"


def is_own(cls: type) -> bool:
    """A class of ours: its code has to travel beside the weights."""
    return cls.__module__.startswith(f"{OWN}.")


def is_stock(cls: type) -> bool:
    return cls.__module__.startswith("transformers.") or is_own(cls)


def stock_class(model: Any) -> type:
    """The stock class that a model is of, or that its class was made from."""
    return next(cls for cls in type(model).__mro__ if is_stock(cls))


def named(name: str) -> Any:
    """The stock class of this name; ``None`` if there is none."""
    import transformers

    own = importlib.import_module(OWN)
    return getattr(transformers, name, None) or (getattr(own, name) if name in own.__all__ else None)
