"""DistilBERT, whose config fields have other names."""

from __future__ import annotations

from tiny_configs.sizes import VOCABULARY

CONFIGS = {
    "distilbert": {
        "vocab_size": VOCABULARY,
        "dim": 32,
        "n_layers": 3,
        "n_heads": 4,
        "hidden_dim": 20,
        "max_position_embeddings": 64,
        "num_labels": 5,
        "pad_token_id": 1,
    },
}
