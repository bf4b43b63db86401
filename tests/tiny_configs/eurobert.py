"""EuroBERT, an encoder with grouped-query attention."""

from __future__ import annotations

from tiny_configs.sizes import DECODER

CONFIGS = {
    "eurobert": {
        **{name: value for name, value in DECODER.items() if name not in ("eos_token_id", "use_cache")},
        "eos_token_id": 2,
        "mask_token_id": 3,
        "attention_bias": True,
        "mlp_bias": True,
    }
}
