"""GPT-Neo, with global and local attention."""

from __future__ import annotations

from tiny_configs.sizes import VOCABULARY

DECODES = True
ATTENTION_IN_FP32 = True
CONFIGS = {
    "gpt_neo": {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "num_layers": 3,
        "num_heads": 4,
        "intermediate_size": 20,
        "max_position_embeddings": 64,
        "attention_types": [[["global", "local", "global"], 1]],
        "window_size": 4,
        "bos_token_id": 0,
        "eos_token_id": None,
        "pad_token_id": 1,
        "num_labels": 5,
    },
}
