"""The size of the images that a model is made for, by its config."""

from __future__ import annotations

from typing import Any

__all__ = ["image_size"]


def image_size(config: Any) -> tuple[int, int, int]:
    """Channels, height and width.

    Args:
        config: config of the model; of a model with two towers, that of its image tower counts.
    """
    config = getattr(config, "vision_config", config)
    size = config.image_size
    height, width = (size, size) if isinstance(size, int) else size
    return config.num_channels, height, width
