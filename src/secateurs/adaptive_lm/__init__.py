"""A language model of our own with adaptive input embeddings and an adaptive softmax, and vocabularies for it.

Frequent words get wide embeddings, rare ones narrow ones: the vocabulary is sorted by frequency and divided into
clusters, and cluster ``i`` has a table ``E_i`` of its own width and a projection ``A_i`` onto the hidden size (Baevski and
Auli 2019). The same tables and projections score the next word (Grave et al. 2017). FLOP learns every cluster's width.

The two files ``configuration_adaptive_lm.py`` and ``modeling_adaptive_lm.py`` also travel beside the weights, so that a
folder loads where Secateurs is not installed; where it was imported, ``AutoModelForCausalLM`` knows the model already.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from secateurs.adaptive_lm.configuration_adaptive_lm import AdaptiveLMConfig
    from secateurs.adaptive_lm.modeling_adaptive_lm import AdaptiveLMForCausalLM, AdaptiveLMModel
    from secateurs.adaptive_lm.vocabulary import byte_tokenizer, cutoffs, word_tokenizer

_LAZY = {
    "AdaptiveLMConfig": "configuration_adaptive_lm",
    "AdaptiveLMForCausalLM": "modeling_adaptive_lm",
    "AdaptiveLMModel": "modeling_adaptive_lm",
    "byte_tokenizer": "vocabulary",
    "cutoffs": "vocabulary",
    "word_tokenizer": "vocabulary",
}

__all__ = [
    "AdaptiveLMConfig",
    "AdaptiveLMForCausalLM",
    "AdaptiveLMModel",
    "byte_tokenizer",
    "cutoffs",
    "word_tokenizer",
]


def __getattr__(name: str) -> Any:
    """Loaded when used: registering the config must not import the modelling code of transformers."""
    if name in _LAZY:
        return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
