"""The language model of words with adaptive embeddings."""

from __future__ import annotations

from tiny_configs.sizes import DECODER

DECODES = True
CONFIGS = {
    "secateurs-adaptive-lm": {
        **{name: value for name, value in DECODER.items() if name != "num_labels"},
        "hidden_size": 48,
        "num_attention_heads": 6,
        "num_key_value_heads": 3,
        "cutoffs": [14, 33],
        "embedding_size": 20,
        "embedding_divisor": 2,
    },
}
