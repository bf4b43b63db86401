"""GPT-NeoX, whose config derives the head size."""

from __future__ import annotations

from tiny_configs.sizes import ENCODER

DECODES = True
CONFIGS = {"gpt_neox": {**ENCODER, "bos_token_id": 0, "eos_token_id": None, "use_cache": True}}
