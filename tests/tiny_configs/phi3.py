"""Phi-3."""

from __future__ import annotations

from tiny_configs.sizes import DECODER

DECODES = True
CONFIGS = {"phi3": {**DECODER, "resid_pdrop": 0.0}}
