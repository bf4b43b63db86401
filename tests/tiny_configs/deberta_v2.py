"""DeBERTa v3: positions share the projections of queries and keys."""

from __future__ import annotations

from tiny_configs.sizes import ENCODER

CONFIGS = {
    "deberta-v2": {
        **ENCODER,
        "relative_attention": True,
        "position_buckets": 4,
        "max_relative_positions": 16,
        "norm_rel_ebd": "layer_norm",
        "share_att_key": True,
        "pos_att_type": ["p2c", "c2p"],
        "position_biased_input": False,
        "type_vocab_size": 0,
        "legacy": True,
        "pooler_hidden_size": 32,
        "pooler_dropout": 0.0,
    },
}
