"""``DataRequest`` and ``TaskData``: what a task is asked to read, and everything that a run takes from the data."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from secateurs.errors import UnsupportedModelError
from secateurs.tasks.roles import Roles, RoleSizes

if TYPE_CHECKING:
    from torch.utils.data import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["Columns", "DataRequest", "TaskData", "Understood", "check_inputs"]

INPUTS = {"input_ids": "texts", "pixel_values": "images", "input_features": "sound"}
"""Name of an input of a model -> what it is."""

Understood = tuple[str, str]
"""One thing that was understood about a data set: what it concerns (``"split"``), and what was found."""


@dataclass(frozen=True)
class Columns:
    """Names of the columns of a data set. A name that is ``None`` is replaced by the first usual name that exists.

    Args:
        text: column of the text, of the first text of a pair, of the words, or of the question.
        text_pair: column of the second text of a pair, or of the context that answers the question.
        label: column of the class, class name or score; of the tags of the words; or of the answers. ``"none"`` ignores
            all labels.
        classes: how classes of the data are matched with the model's: ``"name"``, ``"number"``, or ``None`` to decide.
    """

    text: str | None = None
    text_pair: str | None = None
    label: str | None = None
    classes: str | None = None


@dataclass(frozen=True)
class DataRequest:
    """What a task is asked to read; see ``secateurs.tasks.base.Task.read``."""

    source: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    columns: Columns
    batch_size: int
    sequence_length: int
    roles: RoleSizes
    seed: int
    evaluation_samples: int | None = None
    metric: str | None = None
    max_new_tokens: int | None = None


@dataclass(frozen=True)
class TaskData:
    """All data of a run.

    Args:
        roles: texts that weights are fitted to, that candidates are compared on, and that the divergence is reported on.
            Their labels, if present, are optional.
        calibration_labels: whether ``Task.loss`` can be computed on the texts that weights are fitted to.
        evaluation: held-out data for ``Task.evaluate``, in a form that the task chooses; ``None`` if there is none.
        train: training rows as dicts, for ``transformers.Trainer``, none of which is evaluated or reported on; ``None`` if
            there is no training data.
        collate: function that turns rows of ``train`` into a ``Batch``; the ``data_collator`` of the trainer.
        description: one line for reports with the source, the splits and the numbers of rows.
        understood: what was understood about the data, for the user to check before the work.
    """

    roles: Roles
    calibration_labels: bool
    evaluation: Any | None
    train: Dataset[Any] | None
    collate: Callable[[list[dict[str, Any]]], dict[str, Tensor]]
    description: str
    understood: tuple[Understood, ...] = ()

    def summary(self) -> str:
        """What was understood about the data, one line each, below the description."""
        roles: list[Understood] = [("texts", str(self.roles)), *(("note", note) for note in self.roles.notes)]
        return "\n".join([self.description, *(f"  {what:10}  {found}" for what, found in (*self.understood, *roles))])


def check_inputs(model: Any, prepared: str) -> None:
    """Refuse a model that takes other inputs than a task prepares, or others besides them.

    Args:
        model: a transformers model.
        prepared: name of the input that the task prepares.

    Raises:
        UnsupportedModelError: the main input of the model is another one, or it takes texts and images together.
    """
    main: str = getattr(model, "main_input_name", prepared)
    taken = {main, *({"pixel_values"} & {*inspect.signature(model.forward).parameters})}
    if taken != {prepared}:
        listed = " and ".join(INPUTS.get(name, name) for name in sorted(taken))
        raise UnsupportedModelError(
            f"{type(model).__name__} takes {listed}, and the task prepares {INPUTS[prepared]}; choose another task, or prune "
            "its structure in Python"
        )
