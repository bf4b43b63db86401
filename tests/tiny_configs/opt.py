"""OPT."""

from __future__ import annotations

from tiny_configs.sizes import ENCODER

DECODES = True
CONFIGS = {
    "opt": {
        **{name: value for name, value in ENCODER.items() if name != "intermediate_size"},
        "ffn_dim": 20,
        "bos_token_id": 0,
        "eos_token_id": None,
        "dropout": 0.0,
        "use_cache": True,
    }
}
