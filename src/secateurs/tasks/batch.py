"""Batches: what a task gives to a model."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

__all__ = ["Batch", "main_input", "model_inputs"]

Batch = dict[str, Tensor]
"""Tensors of one batch, on the CPU, padded on the right to the longest row of the batch.

The keys are ``input_ids``, ``attention_mask`` and, where they apply, ``token_type_ids``, ``labels`` and ``loss_mask``. A
batch of images has ``pixel_values`` instead of the first two. The first value of a batch has one row per sequence.
The loss mask is 1 at the tokens that count in the loss and in the comparison of two models, and 0 elsewhere.
"""

TASK_KEYS = frozenset({"labels", "loss_mask"})
"""Keys of a batch that only the task uses; they are not passed to the model."""


def model_inputs(batch: Mapping[str, Tensor]) -> Batch:
    """The part of a batch that is passed to the model."""
    return {name: value for name, value in batch.items() if name not in TASK_KEYS}


def main_input(batch: Mapping[str, Tensor]) -> Tensor:
    """The tensor with one row per sequence: the token ids of texts, or else the first input, such as pixels of images."""
    return batch["input_ids"] if "input_ids" in batch else next(iter(model_inputs(batch).values()))
