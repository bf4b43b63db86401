"""ALBERT: one layer that is used three times, and narrower embeddings."""

from __future__ import annotations

from tiny_configs.sizes import ENCODER

CONFIGS = {"albert": {**ENCODER, "embedding_size": 16}}
