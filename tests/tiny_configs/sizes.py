"""Sizes that most tiny configs share."""

from __future__ import annotations

from typing import Any

__all__ = ["DECODER", "ENCODER", "SEQ2SEQ", "VOCABULARY"]

VOCABULARY = 50

ENCODER: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 20,
    "max_position_embeddings": 64,
    "num_labels": 5,
    "pad_token_id": 1,
}

DECODER: dict[str, Any] = {
    **ENCODER,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "bos_token_id": 0,
    "eos_token_id": None,
    "use_cache": True,
}

SEQ2SEQ: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "d_model": 32,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": None,
    "decoder_start_token_id": 0,
    "forced_eos_token_id": None,
    "dropout": 0.0,
    "attention_dropout": 0.0,
    "use_cache": True,
}
