"""T5 and mT5, whose heads are not ``d_model / num_heads`` wide: two encoder layers and two decoder layers."""

from __future__ import annotations

from typing import Any

from tiny_configs.sizes import SEQ2SEQ

SEQ2SEQ_TYPES = True
_T5: dict[str, Any] = {
    **SEQ2SEQ,
    "num_layers": 2,
    "num_decoder_layers": 2,
    "num_heads": 4,
    "d_kv": 6,
    "d_ff": 20,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 16,
    "dropout_rate": 0.0,
}

CONFIGS = {
    "t5": {**_T5, "feed_forward_proj": "relu"},
    "mt5": {**_T5, "feed_forward_proj": "gated-gelu"},
    "umt5": {**_T5, "feed_forward_proj": "gated-gelu", "d_ff": 16},
}
