"""What the tests of the layer walk and of the sequential refit share: calibrated tiny models, and regression by hand."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from secateurs.context import PruneContext
from secateurs.oneshot.calibrate import calibrate
from secateurs.oneshot.levels import LevelDatabase, Projection
from secateurs.oneshot.stitch import Stitch
from secateurs.structure.families import discover
from secateurs.tasks.text_classification import TextClassification
from tiny_models import batch, tiny_model

__all__ = ["Batches", "inputs_of", "prepared", "ridge"]

Batches = Sequence[dict[str, Tensor]]


@cache
def dense_model(model_type: str) -> tuple[Any, LevelDatabase, list[dict[str, Tensor]]]:
    """A model, its level database, and the batches of its calibration. Nothing may change them: many tests share them."""
    model = tiny_model(model_type)
    structure = discover(model)
    batches = [dict(batch(model, length=24, padding="right", seed=seed)) for seed in range(5)]
    stitch = Stitch(model, structure)
    dense = {group.name: Projection(stitch.weight(group.name), stitch.bias(group.name)) for group in structure}
    return model, LevelDatabase.build(structure, dense, calibrate(model, structure, batches)), batches


def prepared(model_type: str) -> tuple[Stitch, LevelDatabase, PruneContext, dict[str, int]]:
    """A model, its stitch and level database, a context, and an allocation that keeps half of every group."""
    model, database, batches = dense_model(model_type)
    model, structure = copy.deepcopy(model), database.structure
    allocation = {group.name: max(1, group.size // 2) for group in structure}
    context = PruneContext(model, structure, batches, TextClassification(), Path())
    return Stitch(model, structure), database, context, allocation


def inputs_of(model: nn.Module, path: str, batches: Batches) -> Tensor:
    """The input of the module at ``path`` for every token but PAD, in every use of the module."""
    seen: list[Tensor] = []
    handle = model.get_submodule(path).register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    with torch.no_grad():
        for one in batches:
            model(**one)
    handle.remove()
    if seen[0].ndim == 2:
        return torch.cat(seen)
    if "attention_mask" not in batches[0]:  # images
        return torch.cat([part.flatten(0, -2) for part in seen])
    masks = [one["attention_mask"].bool() for one in batches]
    if seen[0].shape[:2] != masks[0].shape:  # the tokens of a decoder, none of which is padding
        return torch.cat([part.flatten(0, -2) for part in seen])
    uses = len(seen) // len(batches)
    tokens = torch.cat([mask.flatten() for mask in masks for _ in range(uses)])
    return torch.cat([part.flatten(0, -2) for part in seen])[tokens]


def ridge(x: Tensor, t: Tensor, weight: Tensor, damping: float, centred: bool) -> Tensor:
    """The regression of ``t`` on ``x`` with a ridge towards ``weight``, by its normal equations."""
    if centred:
        x, t = x - x.mean(0), t - t.mean(0)
    gram = x.T @ x / len(x)
    held = damping * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
    return torch.linalg.solve(gram + held, x.T @ t / len(x) + held @ weight.T).T
