"""Llama and the decoders with its layout."""

from __future__ import annotations

from tiny_configs.sizes import DECODER

SLIDING = {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}

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
        **SLIDING,
    },
    "smollm3": {**DECODER, "no_rope_layers": [1, 0, 1], "use_sliding_window": True, **SLIDING},
    "ministral": {**DECODER, **SLIDING},
    "ministral3": {**DECODER, "num_key_value_heads": 4, "sliding_window": 8},
    "seed_oss": {
        **DECODER,
        "attention_bias": True,
        "attention_out_bias": True,
        "residual_dropout": 0.0,
        "attention_dropout": 0.0,
    },
    "helium": {**DECODER, "num_key_value_heads": 4},
    "hunyuan_v1_dense": {**DECODER, "attention_bias": True},
    "gemma": {**DECODER, "hidden_size": 64, "num_key_value_heads": 4},
    "granite": {**DECODER, "residual_multiplier": 0.4, "attention_multiplier": 0.3, "logits_scaling": 2.0},
    "ernie4_5": {**DECODER, "use_bias": True},
    "olmo": {**DECODER, "clip_qkv": 0.5},
}
