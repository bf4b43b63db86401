"""ModernBERT: full and local attention in turn."""

from __future__ import annotations

from tiny_configs.sizes import ENCODER

CONFIGS = {
    "modernbert": {
        **ENCODER,
        "global_attn_every_n_layers": 2,
        "local_attention": 14,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "cls_token_id": 0,
        "sep_token_id": 2,
    },
}
