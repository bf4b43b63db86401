"""Phi, whose config derives the head size."""

from __future__ import annotations

from tiny_configs.sizes import DECODER

DECODES = True
CONFIGS = {"phi": {name: value for name, value in DECODER.items() if name != "head_dim"}}
