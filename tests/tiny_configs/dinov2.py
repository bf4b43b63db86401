"""DINOv2 with and without registers; an image has four patches, and the feed-forward block of one of them is gated."""

from __future__ import annotations

from tiny_configs.vit import IMAGE

DINO = {name: value for name, value in IMAGE.items() if name != "intermediate_size"} | {"mlp_ratio": 1}
SEES_IMAGES = True
CONFIGS = {"dinov2": DINO, "dinov2_with_registers": {**DINO, "use_swiglu_ffn": True, "num_register_tokens": 2}}
