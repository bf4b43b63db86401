"""Decoders with feed-forward blocks without gates. Squared activations would be too large for an absolute tolerance."""

from __future__ import annotations

from tiny_configs.sizes import DECODER

DECODES = True
CONFIGS = {
    "arcee": {**DECODER, "mlp_bias": True, "attention_bias": True},
    "nemotron": {**DECODER, "hidden_act": "gelu", "attention_bias": True, "mlp_bias": True},
}
