"""GPT-BigCode, with one key-value head."""

from __future__ import annotations

from tiny_configs.sizes import VOCABULARY

DECODES = True
CONFIGS = {
    "gpt_bigcode": {
        "vocab_size": VOCABULARY,
        "n_embd": 32,
        "n_layer": 3,
        "n_head": 4,
        "n_inner": 20,
        "n_positions": 64,
        "multi_query": True,
        "attn_pdrop": 0.0,
        "bos_token_id": 0,
        "eos_token_id": None,
        "pad_token_id": 1,
        "num_labels": 5,
    },
}
