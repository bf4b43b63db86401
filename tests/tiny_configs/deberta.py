"""DeBERTa (v1)."""

from __future__ import annotations

from tiny_configs.sizes import ENCODER

CONFIGS = {
    "deberta": {
        **ENCODER,
        "relative_attention": True,
        "max_relative_positions": 16,
        "pos_att_type": ["c2p", "p2c"],
        "position_biased_input": False,
        "type_vocab_size": 0,
        "pooler_hidden_size": 32,
        "pooler_dropout": 0.0,
    },
}
