"""Rows of images: which column holds them, how they are decoded, and batches that are made when they are read."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, final, overload

import torch
from torch import Tensor

from secateurs.checkpoint.refusals import first_line
from secateurs.errors import DataError
from secateurs.modeling.image_size import image_size
from secateurs.tasks.base import Batch, Columns
from secateurs.tasks.data.batches import Rows, TextKey
from secateurs.tasks.data.columns import find_column
from secateurs.tasks.data.encode import Row

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["ImageBatches", "ImageRows", "encoding", "image_column", "stack"]

IMAGES = ("image", "img", "picture", "photo")
"""Usual names of the column of images."""

ENDS = 4096
"""Bytes at each end of a file by which equal images are found: to read all of them would take long."""

Pixels = Callable[[list[Any]], Tensor]
"""Images of Pillow -> ``pixel_values``."""


def encoding(processor: Any, model: Any) -> Pixels:
    """The preparation of images by an image processor.

    Args:
        processor: image processor of the model.
        model: model whose image size the prepared images must have.

    Raises:
        DataError: the processor makes images of another size.
    """
    from PIL import Image

    def pixels(images: list[Any]) -> Tensor:
        return processor(images=images, return_tensors="pt")["pixel_values"]

    wanted = image_size(model.config)
    found = tuple(pixels([Image.new("RGB" if wanted[0] == 3 else "L", (320, 240))]).shape[1:])
    if found != wanted:
        raise DataError(
            f"the image processor makes images of {_size(found)}, and the model takes {_size(wanted)} (channels, height, "
            "width); use the processor that belongs to the model, or write its size to preprocessor_config.json"
        )
    return pixels


def image_column(columns: Columns, rows: Dataset, source: str) -> str:
    """The column of images: the given one, else the first that the data set declares, else one with a usual name.

    Args:
        columns: names given by the user; ``text`` is the column of images.
        rows: data set.
        source: name of the data set in error messages.

    Raises:
        DataError: the column does not exist, or none is recognised, or it holds no images.
    """
    from datasets import Image

    declared = [name for name, feature in rows.features.items() if isinstance(feature, Image)]
    if columns.text is None and declared:
        return declared[0]
    column = find_column(columns.text, "text", IMAGES, rows, source)
    if not _may_hold_images(rows, column):
        raise DataError(f"column {column!r} of {source} holds no images; name the column that does with --text-column")
    return column


def _may_hold_images(rows: Dataset, column: str) -> bool:
    """Whether a column has a type that ``datasets`` can read as images: encoded bytes, or the path of a file, or both."""
    from datasets import Image

    feature: Any = rows.features[column]
    if isinstance(feature, dict):
        return {"bytes", "path"} <= feature.keys()
    return isinstance(feature, Image) or getattr(feature, "dtype", "") in ("binary", "large_binary", "string")


def stack(rows: list[Row]) -> Batch:
    """One batch of rows of images, which all have one size."""
    batch: Batch = {"pixel_values": torch.stack([row["pixel_values"] for row in rows])}
    if "labels" in rows[0]:
        batch["labels"] = torch.tensor([row["labels"] for row in rows])
    return batch


@final
class ImageRows(Rows):
    """Rows of images. Images are decoded on access, so that opening a large training split takes little time.

    Args:
        pixels: preparation of images.
        rows: data set.
        column: column of images.
        source: name of the data set in error messages.
        mode: mode of Pillow that images are converted to: ``"RGB"``, or ``"L"`` for a single channel.
        labels: class or score of every row, or ``None``.
    """

    def __init__(
        self, pixels: Pixels, rows: Dataset, column: str, source: str, mode: str, labels: Sequence[float] | None = None
    ) -> None:
        from datasets import Image

        super().__init__(stack)
        self.pixels, self.column, self.source, self.labels = pixels, column, source, labels
        only = rows.select_columns([column])
        self.images, self.files = (only.cast_column(column, Image(mode, decode)) for decode in (True, False))

    def __len__(self) -> int:
        return len(self.images)

    def text_keys(self) -> list[TextKey]:
        """See ``Rows.text_keys``. Images are equal if the lengths and both ends of their files are."""
        found = [_digest(self._file(index)) for index in range(len(self))]
        return [TextKey(key, key) for key in found]

    def rows(self, indices: Sequence[int]) -> list[Row]:
        """See ``Rows.rows``."""
        pixels = self.pixels([self._image(index) for index in indices])
        rows: list[Row] = [{"pixel_values": one} for one in pixels]
        if self.labels is not None:
            for row, index in zip(rows, indices, strict=True):
                row["labels"] = self.labels[index]
        return rows

    def _image(self, index: int) -> Any:
        """The image of a row.

        Raises:
            DataError: there is none, or it cannot be read.
        """
        try:
            image = self.images[index][self.column]
        except Exception as error:  # Pillow and its plugins raise exceptions of many classes
            path = self._file(index).get("path")
            name = f" ({Path(path).name})" if path else ""
            raise DataError(
                f"cannot read the image of row {index}{name} of {self.source}: {first_line(error)}"
            ) from error
        if image is None:
            raise DataError(f"row {index} of {self.source} has no image; drop or repair such rows")
        return image

    def _file(self, index: int) -> dict[str, Any]:
        """Bytes or path of the file of a row."""
        return self.files[index][self.column] or {}


def _digest(file: dict[str, Any]) -> str:
    """What identifies a file: its length and both of its ends."""
    content, path = file.get("bytes"), file.get("path")
    if content is not None:
        parts = len(content), content[:ENDS], content[-ENDS:]
    elif path is not None and Path(path).is_file():
        with open(path, "rb") as opened:
            length = opened.seek(0, 2)
            opened.seek(max(0, length - ENDS))
            end = opened.read()
            opened.seek(0)
            parts = length, opened.read(ENDS), end
    else:
        parts = 0, str(path).encode(), b""
    return hashlib.sha256(b"%d %s %s" % parts).hexdigest()


@final
class ImageBatches(Sequence[Batch]):
    """Batches of all rows in their order, made when they are read: the pixels of all images may not fit into memory.

    Args:
        images: the rows.
        batch_size: rows per batch.
    """

    def __init__(self, images: ImageRows, batch_size: int) -> None:
        self.images, self.batch_size = images, batch_size

    @property
    def rows(self) -> int:
        """Number of rows in all batches."""
        return len(self.images)

    def __len__(self) -> int:
        return -(-len(self.images) // self.batch_size)

    @overload
    def __getitem__(self, index: int) -> Batch: ...
    @overload
    def __getitem__(self, index: slice) -> list[Batch]: ...
    def __getitem__(self, index: int | slice) -> Batch | list[Batch]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        numbers = range(len(self.images))[index * self.batch_size : (index + 1) * self.batch_size]
        if not numbers or index < 0:
            raise IndexError(index)
        return stack(self.images.rows(numbers))


def _size(found: tuple[int, ...]) -> str:
    return " x ".join(map(str, found))
