"""CLIP and SigLIP, with two small towers; an image has four patches. Tiny models are classifiers of images."""

from __future__ import annotations

from tiny_configs.sizes import VOCABULARY
from tiny_configs.vit import IMAGE

TOWER = {name: IMAGE[name] for name in ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")}
TEXT = {**TOWER, "vocab_size": VOCABULARY, "max_position_embeddings": 16, "projection_size": 32}
VISION = {**TOWER, "image_size": 16, "patch_size": 8, "num_channels": 3}
SEES_IMAGES = True
CONFIGS = {
    name: {"text_config": TEXT, "vision_config": VISION, "num_labels": 5, "projection_dim": 24}
    for name in ("clip", "siglip")
}
