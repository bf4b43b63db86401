"""Decoders with norms before and behind each sub-block. The scale of Gemma's embeddings, the root of 64, is exact in fp32."""

from __future__ import annotations

from tiny_configs.sizes import DECODER

SLIDING = {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}

DECODES = True
CONFIGS = {
    "gemma2": {**DECODER, "hidden_size": 64, **SLIDING, "query_pre_attn_scalar": 8, "attn_logit_softcapping": 20.0},
    "gemma3_text": {**DECODER, "hidden_size": 64, **SLIDING, "query_pre_attn_scalar": 8},
    "hyperclovax": {
        **DECODER,
        "use_post_norm": True,
        "residual_multiplier": 0.4,
        "attention_multiplier": 0.3,
        "logits_scaling": 2.0,
        "attention_bias": True,
        "mlp_bias": True,
    },
    "glm4": {**DECODER, "attention_bias": True},
}
