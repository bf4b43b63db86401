"""Falcon, with the layout of the 7B model."""

from __future__ import annotations

from tiny_configs.sizes import ENCODER

DECODES = True
CONFIGS = {
    "falcon": {
        **{name: value for name, value in ENCODER.items() if name != "intermediate_size"},
        "ffn_hidden_size": 20,
        "bos_token_id": 0,
        "eos_token_id": None,
        "use_cache": True,
    }
}
