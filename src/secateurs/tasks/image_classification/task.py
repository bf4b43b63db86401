"""Classification of images, scored by accuracy."""

from __future__ import annotations

import io
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.nn import functional

from secateurs.errors import DataError, UnsupportedModelError
from secateurs.modeling.image_size import image_size
from secateurs.numerics.divergence import kl_divergence
from secateurs.tasks.base import Batch, DataRequest, Score, Task, TaskData
from secateurs.tasks.data.batches import forward, sample
from secateurs.tasks.data.classes import WITHOUT_LABELS
from secateurs.tasks.data.columns import check_label, find_label
from secateurs.tasks.data.draw_roles import draw_roles
from secateurs.tasks.data.splits import divide
from secateurs.tasks.data.understood import NOT_EVALUATED, about_columns, about_splits
from secateurs.tasks.image_classification.image_folders import read_image_splits
from secateurs.tasks.image_classification.images import ImageBatches, ImageRows, encoding, image_column, stack
from secateurs.tasks.text_classification.labels import ClassLabels

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel

__all__ = ["ImageClassification"]


@final
class ImageClassification(Task):
    """Classification of images. The batches of the latency workload are random pixels of the model's image size."""

    name = "image_classification"
    divergence_name = "KL"
    pipeline_tag = "image-classification"
    auto_class = "AutoModelForImageClassification"
    needs_labels_for_metric = True
    inputs = "pixel_values"

    def read_data(self, request: DataRequest) -> TaskData:
        """See ``Task.read_data``. The tokenizer of the request is an image processor; its sequence length is not used."""
        source, columns, model = request.source, request.columns, request.model
        pixels = encoding(request.tokenizer, model)
        mode = "RGB" if image_size(model.config)[0] == 3 else "L"
        labels = ClassLabels(model.config, columns, source)
        if labels.scores:
            raise UnsupportedModelError("the model has one output; image-classification needs one class per image")
        splits = read_image_splits(source)
        check_label(columns, splits, source)
        _refuse_guesses(splits, request, labels)
        division = divide(source, splits, usable=labels.present, seed=request.seed)
        kept = {name: labels.labelled(rows) for name, rows in division.parts.items()}
        column = image_column(columns, division.rows, source)
        label = find_label(columns, division.rows)
        about = [
            *about_splits(division, splits),
            about_columns({"image": column}, label, "label", columns, division.rows.column_names),
            *labels.prepare(kept),
        ]

        def rows_of(rows: Dataset, name: str) -> ImageRows:
            where = f"{source} ({name})"
            values = labels.read(rows) if labels.present(rows) else None
            return ImageRows(pixels, rows, image_column(columns, rows, where), where, mode, values)

        rows = rows_of(kept[division.rows_name], division.rows_name)
        held_out = None
        if division.held_out is not None:
            every = kept[division.held_out_name]
            chosen = every.select(sample(len(every), request.evaluation_samples, request.seed))
            held_out = rows_of(chosen, division.held_out_name)
        compared = held_out
        if division.unlabelled is not None:
            compared = rows_of(division.unlabelled, division.held_out_name)
        roles, train = draw_roles(
            rows,
            compared,
            request.roles,
            split=division.rows_name,
            held_out_split=division.held_out_name,
            batch_size=request.batch_size,
            seed=request.seed,
        )
        if held_out is None:
            evaluated = "none to evaluate (no labels)"
            about.append(NOT_EVALUATED)
        else:
            evaluated = f"{len(held_out)} images to evaluate ({division.held_out_name})"
        return TaskData(
            roles=roles,
            calibration_labels=rows.labels is not None,
            evaluation=ImageBatches(held_out, request.batch_size) if held_out is not None else None,
            train=train if division.trainable else None,
            collate=stack,
            description=f"{source}: {roles.fit.rows} of {len(rows)} {division.rows_name} images to calibrate, {evaluated}",
            understood=tuple(about),
        )

    def compared_outputs(self, outputs: Any, batch: Batch) -> Float[Tensor, "rows features"]:
        """The logits, one row per image."""
        return outputs.logits

    def divergence(
        self, student: Float[Tensor, "rows features"], teacher: Float[Tensor, "rows features"]
    ) -> Float[Tensor, " rows"]:
        """KL(teacher || student) in nats."""
        return kl_divergence(student, teacher)

    def answers(self, outputs: Any, batch: Batch) -> Shaped[Tensor, "texts ..."]:
        """See ``Answers.answers``: the most probable class."""
        return outputs.logits.argmax(-1)

    def loss(self, outputs: Any, batch: Batch) -> Float[Tensor, ""]:
        """Mean cross-entropy in nats."""
        if "labels" not in batch:
            raise DataError("the batch has no labels; the loss of image_classification needs a label column")
        return functional.cross_entropy(outputs.logits.float(), batch["labels"].to(outputs.logits.device))

    def evaluate(self, model: PreTrainedModel, evaluation: ImageBatches, device: torch.device | str) -> Score:
        """Accuracy: the share of images whose most probable class is the true one."""
        hits = [
            (outputs.logits.argmax(-1) == batch["labels"]).cpu()
            for outputs, batch in forward(model, evaluation, device)
        ]
        right = torch.cat(hits).double()
        return Score("accuracy", right.mean().item(), higher_is_better=True, count=len(right))

    def save_extras(self, source: str, folder: Path) -> None:
        """See ``Task.save_extras``: the files of the image processor."""
        from secateurs.checkpoint.dense_files import copy_image_processor

        copy_image_processor(source, folder, subfolder=self.subfolder)

    @classmethod
    def example(cls, texts: Sequence[str], labelled: bool = True) -> dict[str, list[Any]]:
        """See ``Task.example``. Every text becomes an image of a square, bright for class 1; it decides place and shade."""
        columns: dict[str, list[Any]] = {"image": [_drawn(text, index % 2) for index, text in enumerate(texts)]}
        return {**columns, "label": [index % 2 for index in range(len(texts))]} if labelled else columns


def _refuse_guesses(splits: dict[str, Dataset], request: DataRequest, labels: ClassLabels) -> None:
    """Refuse data without a label column by a usual name where another column could be the labels.

    Raises:
        DataError: with the readings to choose from.
    """
    columns, source = request.columns, request.source
    if columns.label is not None or any(find_label(columns, rows) for rows in splits.values()):
        return
    rows = next(rows for rows in splits.values() if len(rows))
    images = image_column(columns, rows, source)
    fitting = [name for name in rows.column_names if name != images and labels.fits(rows, name)]
    if fitting:
        choices = "; ".join(f"--label-column {name}" for name in fitting[:3])
        raise DataError(
            f"{source} has no label column by a usual name, and {', '.join(map(repr, fitting))} could be one "
            f"(columns: {', '.join(rows.column_names)}): choose {choices}; {WITHOUT_LABELS}"
        )


def _drawn(text: str, bright: int) -> dict[str, Any]:
    """A PNG of a square on a dark ground, as ``datasets`` stores images."""
    from PIL import Image

    seed = zlib.crc32(text.encode())
    left, top, dark = seed % 16, seed // 16 % 16, (seed // 256 % 64, seed // 2**14 % 64, seed // 2**20 % 64)
    image = Image.new("RGB", (32, 32), dark)
    image.paste((255, 220, 190) if bright else (90, 10, 70), (left, top, left + 16, top + 16))
    file = io.BytesIO()
    image.save(file, "PNG")
    return {"bytes": file.getvalue(), "path": None}
