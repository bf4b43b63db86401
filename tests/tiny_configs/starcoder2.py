"""StarCoder2."""

from __future__ import annotations

from tiny_configs.sizes import DECODER

DECODES = True
CONFIGS = {"starcoder2": {**DECODER, "num_key_value_heads": 2, "sliding_window": 8}}
