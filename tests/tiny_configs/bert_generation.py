"""BERT that generates text: transformers has no other head for it."""

from __future__ import annotations

from tiny_configs.sizes import ENCODER

DECODES = True
CONFIGS = {
    "bert-generation": {**ENCODER, "is_decoder": True, "use_cache": True, "bos_token_id": 0, "eos_token_id": None},
}
