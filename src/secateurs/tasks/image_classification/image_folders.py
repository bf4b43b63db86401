"""Folders of images by class, such as ``train/cat/001.jpg`` or ``cat/001.jpg``, and folders of images without classes."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from secateurs.tasks.data.layouts import split_word
from secateurs.tasks.data.sources import local_path, read_splits

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["IMAGE_SUFFIXES", "read_image_splits"]

logger = logging.getLogger(__name__)

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"}
"""File suffixes of images, in lower case."""

UNLABELLED = ""
"""Stands for the class of images that lie directly in the folder of a split."""

Classes = dict[str, list[Path]]


def read_image_splits(source: str) -> dict[str, Dataset]:
    """Read every split of a data set with images.

    Args:
        source: folder of images by class, or anything that ``secateurs.tasks.data.sources.read_splits`` reads.

    Returns:
        The splits by name. Those of a folder of images have the columns ``image`` and, with classes, ``label``.

    Raises:
        DataError: the source does not exist, cannot be read, or has no rows.
    """
    path = local_path(source)
    found = _splits(path) if path is not None and path.is_dir() else {}
    if not found:
        return read_splits(source)
    names = sorted({name for classes in found.values() for name in classes} - {UNLABELLED})
    return {split: _rows(classes, names) for split, classes in found.items()}


def _splits(folder: Path) -> dict[str, Classes]:
    """Name of the split -> class -> images; empty if the folder holds no images in these places."""
    children = _folders(folder)
    found = {child.name: _classes(child) for child in children if split_word(child.name) is not None}
    found = {name: classes for name, classes in found.items() if classes}
    if found:
        return found
    if classes := _classes(folder):
        return {"all": classes}
    return _splits(children[0]) if len(children) == 1 else {}  # an archive that was unpacked into a folder of its own


def _classes(folder: Path) -> Classes:
    """The images of the subfolders by class, or those of the folder itself, which then have no class."""
    found = {child.name: images for child in _folders(folder) if (images := _images(child))}
    own = _images(folder)
    if found and own:
        logger.warning("%s: %d images that are in no folder of a class are not read", folder, len(own))
    return found or ({UNLABELLED: own} if own else {})


def _rows(classes: Classes, names: list[str]) -> Dataset:
    """One row per image."""
    from datasets import ClassLabel, Dataset, Features, Image

    columns = {"image": [str(path) for images in classes.values() for path in images]}
    if UNLABELLED in classes:
        return Dataset.from_dict(columns, features=Features({"image": Image()}))
    labels = [names.index(name) for name, images in classes.items() for _ in images]
    features = Features({"image": Image(), "label": ClassLabel(names=names)})
    return Dataset.from_dict({**columns, "label": labels}, features=features)


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith((".", "__")))


def _images(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())
