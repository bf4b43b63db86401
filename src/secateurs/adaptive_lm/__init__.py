"""A language model with adaptive input embeddings and an adaptive softmax, and vocabularies for it.

Frequent words have wide embeddings, rare words have narrow ones. The vocabulary is sorted by frequency and divided into
clusters. Cluster ``i`` has a table ``E_i``, each with its own width, and a projection ``A_i`` onto the hidden size (Baevski
and Auli 2019). The same tables and projections score the next word (Grave et al. 2017). FLOP learns the width of every
cluster.

The files ``configuration_adaptive_lm.py`` and ``modeling_adaptive_lm.py`` are also saved beside the weights, so that a folder
loads where Secateurs is not installed. After ``import secateurs``, ``AutoModelForCausalLM`` knows the model.
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
    """Import a name on first use: registering the config must not import the modelling code of transformers."""
    if name in _LAZY:
        return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
