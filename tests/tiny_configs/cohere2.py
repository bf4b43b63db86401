"""Cohere and Cohere 2, whose configs derive the head size."""

from __future__ import annotations

from tiny_configs.sizes import DECODER

WITHOUT_HEAD_SIZE = {name: value for name, value in DECODER.items() if name != "head_dim"}

DECODES = True
CONFIGS = {
    "cohere": WITHOUT_HEAD_SIZE,
    "cohere2": {
        **WITHOUT_HEAD_SIZE,
        "sliding_window": 8,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    },
}
