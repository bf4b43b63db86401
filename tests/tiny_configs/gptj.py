"""GPT-J, whose config fields have other names."""

from __future__ import annotations

from tiny_configs.sizes import VOCABULARY

DECODES = True
ATTENTION_IN_FP32 = True
CONFIGS = {
    "gptj": {
        "vocab_size": VOCABULARY,
        "n_embd": 32,
        "n_layer": 3,
        "n_head": 4,
        "n_inner": 20,
        "n_positions": 64,
        "rotary_dim": 4,
        "bos_token_id": 0,
        "eos_token_id": None,
        "pad_token_id": 1,
        "tie_word_embeddings": False,
        "num_labels": 5,
    },
}
