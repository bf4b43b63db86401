"""Encoders like BERT with the norms in front of their blocks."""

from __future__ import annotations

from tiny_configs.sizes import ENCODER

CONFIGS = {
    "esm": {
        **ENCODER,
        "position_embedding_type": "rotary",
        "token_dropout": False,
        "mask_token_id": 3,
        "attention_probs_dropout_prob": 0.0,
    },
    "megatron-bert": ENCODER,
    "roberta-prelayernorm": ENCODER,
    "xlm-roberta-xl": ENCODER,
}
