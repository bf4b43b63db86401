"""Small generated images: coloured shapes in folders by class."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

__all__ = ["SHAPES", "draw", "image_folder"]

SHAPES = ("disc", "square")
"""The classes of ``image_folder``, in the order of their outputs."""


def draw(shape: str, chance: random.Random, size: int = 24) -> Any:
    """An image of one shape in a random colour at a random place."""
    from PIL import Image, ImageDraw

    image = Image.new("RGB", (size, size), tuple(chance.choices(range(60), k=3)))
    left, top, width = chance.randrange(size // 2), chance.randrange(size // 2), chance.randrange(size // 3, size // 2)
    paint = ImageDraw.Draw(image)
    colour = tuple(chance.choices(range(120, 256), k=3))
    box = (left, top, left + width, top + width)
    paint.ellipse(box, colour) if shape == "disc" else paint.rectangle(box, colour)
    return image


def image_folder(folder: Path, counts: dict[str, int], seed: int = 0) -> Path:
    """Write PNG files to ``<split>/<shape>/<number>.png``.

    Args:
        folder: new folder.
        counts: name of the split -> images of every shape.
        seed: seed of the drawings.
    """
    chance = random.Random(seed)
    for split, count in counts.items():
        for shape in SHAPES:
            (folder / split / shape).mkdir(parents=True)
            for number in range(count):
                draw(shape, chance).save(folder / split / shape / f"{number:03}.png")
    return folder
