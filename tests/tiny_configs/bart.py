"""BART and the encoder-decoders with its layout: two encoder layers and two decoder layers."""

from __future__ import annotations

from typing import Any

from tiny_configs.sizes import SEQ2SEQ

SEQ2SEQ_TYPES = True
_BART: dict[str, Any] = {
    **SEQ2SEQ,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 20,
    "decoder_ffn_dim": 24,
    "max_position_embeddings": 64,
    "scale_embedding": True,
}

CONFIGS = {
    "bart": _BART,
    "marian": {**_BART, "decoder_vocab_size": SEQ2SEQ["vocab_size"]},
    "plbart": _BART,
    "blenderbot-small": _BART,
    "mbart": _BART,
    "pegasus": _BART,
    "m2m_100": {**_BART, "encoder_layerdrop": 0.0, "decoder_layerdrop": 0.0},  # would drop layers at random in training
}
