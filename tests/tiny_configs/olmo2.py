"""Decoders with norms behind each sub-block only."""

from __future__ import annotations

from tiny_configs.sizes import DECODER

SLIDING = {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}

DECODES = True
CONFIGS = {
    "olmo2": {**DECODER, "hidden_size": 48, "num_attention_heads": 6, "num_key_value_heads": 3, "attention_bias": True},
    "olmo3": {**DECODER, "num_key_value_heads": 4, **SLIDING},
    "exaone4": {**DECODER, **SLIDING, "sliding_window_pattern": "LG"},
}
