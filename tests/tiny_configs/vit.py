"""ViT and the vision transformers with its layout; an image has four patches."""

from __future__ import annotations

IMAGE = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 20,
    "image_size": 16,
    "patch_size": 8,
    "num_channels": 3,
    "num_labels": 5,
}
SEES_IMAGES = True
CONFIGS = {"vit": IMAGE, "deit": {**IMAGE, "qkv_bias": False, "architectures": ["DeiTForImageClassification"]}}
