"""StableLM, whose config derives the head size."""

from __future__ import annotations

from tiny_configs.sizes import DECODER

DECODES = True
CONFIGS = {
    "stablelm": {
        **{name: value for name, value in DECODER.items() if name != "head_dim"},
        "use_qkv_bias": True,
        "attention_dropout": 0.0,
        "hidden_dropout": 0.0,
    }
}
