"""Model classes whose code is installed with a library: those of transformers, and the adaptive language models of
Secateurs, which follow the conventions of transformers.

The prose elsewhere calls both "transformers' own classes". Other classes come from the code beside a checkpoint, or from
the user.
"""

from __future__ import annotations

import importlib
from typing import Any

from torch import nn

__all__ = ["hf_class", "hf_class_named", "is_adaptive_lm_class", "is_hf_class", "is_norm"]

ADAPTIVE_LM = "secateurs.adaptive_lm"


def is_adaptive_lm_class(cls: type) -> bool:
    """Whether a class belongs to ``secateurs.adaptive_lm``; its code must be saved beside the weights."""
    return cls.__module__.startswith(f"{ADAPTIVE_LM}.")


def is_hf_class(cls: type) -> bool:
    """Whether the code of a class is installed with transformers or with Secateurs."""
    return cls.__module__.startswith("transformers.") or is_adaptive_lm_class(cls)


def hf_class(model: Any) -> type:
    """transformers' own class of a model, or the one that the class of the model is derived from."""
    return next(cls for cls in type(model).__mro__ if is_hf_class(cls))


def hf_class_named(name: str) -> Any:
    """transformers' own class with this name, or ``None`` if there is none."""
    import transformers

    adaptive_lm = importlib.import_module(ADAPTIVE_LM)
    return getattr(transformers, name, None) or (getattr(adaptive_lm, name) if name in adaptive_lm.__all__ else None)


def is_norm(module: nn.Module) -> bool:
    """Whether a norm can be masked: every LayerNorm, and every RMSNorm.

    An RMSNorm has that name, or like T5's norm a gain, an epsilon of its variance and no bias.
    """
    if isinstance(module, nn.LayerNorm) or type(module).__name__.endswith("RMSNorm"):
        return True
    return hasattr(module, "variance_epsilon") and not hasattr(module, "bias")
