"""Llama and the decoders with its layout."""

from __future__ import annotations

from tiny_configs.sizes import DECODER

DECODES = True
CONFIGS = {
    "llama": {**DECODER, "hidden_size": 48, "num_attention_heads": 6, "num_key_value_heads": 3},
    "mistral": {**DECODER, "hidden_size": 48, "num_attention_heads": 6, "num_key_value_heads": 3, "sliding_window": 8},
    "qwen2": {**DECODER, "num_key_value_heads": 4},
    "qwen3": {
        **DECODER,
        "num_key_value_heads": 2,
        "attention_bias": True,
        "use_sliding_window": True,
        "sliding_window": 8,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    },
}
